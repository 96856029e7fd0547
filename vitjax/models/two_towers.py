"""An image tower and a text tower whose embeddings lie on one sphere: CLIP, SigLIP, LiT.

The image tower is any backbone, and is called `backbone` here as everywhere, so that layer-wise decay, `config.init`
and the model card speak of it as of any other. `models.published` has the settings of published models.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax import models
from vitjax.errors import UserError
from vitjax.models import text as text_model
from vitjax.vectors import normalised

PROJECTIONS = ("none", "linear", "biased")


def make(image: Any, text: Any, towers: Any, dtype: Any = jnp.float32) -> "TwoTowers":
    """The towers that the config's sections `model`, `text` and `towers` describe.

    Raises:
      UserError: a setting that is not among the choices, or numbers that do not fit together.
    """
    for key in ("image_projection", "text_projection"):
        if towers[key] not in PROJECTIONS:
            raise UserError(
                f"config.towers.{key}={towers[key]!r} is not known; choose from {', '.join(PROJECTIONS)}"
            )
    if towers.scale <= 0:
        raise UserError(f"config.towers.scale={towers.scale} must be above 0; CLIP begins at 1 / 0.07, SigLIP at 10")
    return TwoTowers(
        backbone=models.build(image, dtype),
        text=text_model.make(text, dtype),
        embed_dim=towers.embed_dim,
        image_projection=towers.image_projection,
        text_projection=towers.text_projection,
        init_scale=towers.scale,
        init_bias=towers.bias,
    )


class TwoTowers(nn.Module):
    """{'image_embed': [B, E], 'text_embed': [B, E], 'scale': [], 'bias': []} of pictures and token ids [B, L].

    Embeddings are unit vectors in float32. The logits of a pair are scale * image . text + bias, where scale is
    the exponential of the parameter `logit_scale`, which begins at log(init_scale). An `init_bias` of None: no
    such parameter, and 'bias' is 0. Pictures and texts may be embedded apart, by `embed_images` and
    `embed_texts`; their numbers need not be equal.

    With a backbone that has batch norm and `train`, the collection 'batch_stats' must be mutable.
    """

    backbone: nn.Module
    text: nn.Module
    embed_dim: int
    image_projection: str
    text_projection: str
    init_scale: float
    init_bias: float | None = None

    def setup(self):
        self.image_head = None if self.image_projection == "none" else self._head(self.image_projection, "image")
        self.text_head = None if self.text_projection == "none" else self._head(self.text_projection, "text")
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(self.init_scale)), ())
        if self.init_bias is not None:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(self.init_bias), ())

    def __call__(
        self, images: Float[Array, "B H W 3"], ids: Int[Array, "T L"], train: bool = False
    ) -> dict[str, Array]:
        embeds = {"image_embed": self.embed_images(images, train), "text_embed": self.embed_texts(ids, train)}
        return embeds | self.scale_and_bias()

    def embed_images(self, images: Float[Array, "B H W 3"], train: bool = False) -> Float[Array, "B E"]:
        """The unit embeddings of normalised pictures."""
        return self.project_images(self.backbone(images, train)["features"])

    def project_images(self, features: Float[Array, "B D"]) -> Float[Array, "B E"]:
        """The unit embeddings of pictures whose features are known, of a locked tower for one."""
        return self._projected(features, self.image_head, "image", "config.model")

    def embed_texts(self, ids: Int[Array, "T L"], train: bool = False) -> Float[Array, "T E"]:
        """The unit embeddings of texts."""
        features = self.text(ids, train)["features"]
        return self._projected(features, self.text_head, "text", "config.text")

    def scale_and_bias(self) -> dict[str, Float[Array, ""]]:
        """{'scale': the factor of the cosines, 'bias': what is added to the product}."""
        bias = jnp.zeros(()) if self.init_bias is None else self.logit_bias
        return {"scale": jnp.exp(self.logit_scale), "bias": bias}

    def _head(self, projection: str, side: str) -> nn.Dense:
        """In float32 like every head; begins as a normal of D ** -0.5."""
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        return nn.Dense(
            self.embed_dim, use_bias=projection == "biased", kernel_init=init, name=f"{side}_projection"
        )

    def _projected(self, features: Array, head: nn.Dense | None, side: str, section: str) -> Array:
        if head is None and features.shape[-1] != self.embed_dim:
            raise UserError(
                f"config.towers.{side}_projection='none' needs {section} to give config.towers.embed_dim="
                f"{self.embed_dim} features, not {features.shape[-1]}; or set it to 'linear'"
            )
        return normalised(features if head is None else head(features))
