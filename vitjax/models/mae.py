"""Masked autoencoder: encode a few patches, predict the pixels of the others (He et al. 2022)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.errors import UserError
from vitjax.models import patches, positions, vit


def make(model_config: Any, objective_config: Any, dtype: Any = jnp.float32) -> "MAE":
    """The autoencoder around the ViT that `config.model` describes.

    Raises:
      UserError: a mask ratio outside 0..1, a backbone that is not a ViT, or widths that do not fit together.
    """
    c = objective_config
    if model_config.name != "vit":
        raise UserError(f"config.model.name={model_config.name!r} cannot be masked; use 'vit'")
    if not 0.0 < c.mask_ratio < 1.0:
        raise UserError(f"config.objective.mask_ratio={c.mask_ratio} must lie in 0..1; the paper has 0.75")
    if c.decoder_width % c.decoder_heads or c.decoder_width % 4:
        raise UserError(
            f"config.objective.decoder_width={c.decoder_width} must be a multiple of 4 and of "
            f"config.objective.decoder_heads={c.decoder_heads}"
        )
    backbone = vit.make(model_config, dtype)
    if backbone.pool not in ("cls", "gap", "gap_std"):
        raise UserError(
            f"config.model.pool={backbone.pool!r} has no final norm; use 'cls', 'gap' or 'gap_std'"
        )
    return MAE(backbone, c.mask_ratio, c.decoder_width, c.decoder_depth, c.decoder_heads)


class MAE(nn.Module):
    """{'pred': float32 [B, N, P*P*3], 'mask': [B, N], 'features': [B, D]} of normalised pictures and uniform noise.

    The patches with the least noise are kept. `mask` is 1 where a patch was removed and has to be predicted.
    `pred` covers all patches, in the order and with the pixel order of `patchify`; `features` is the mean
    of the encoder's tokens of the visible ones. The fixed positions of encoder and decoder are constants; a 'learned'
    form exists for weights whose positions were changed.
    """

    backbone: vit.ViT
    mask_ratio: float
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    decoder_mlp_ratio: int = 4
    decoder_posemb: str = "sincos2d"

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], noise: Float[Array, "B N"], train: bool = False
    ) -> dict[str, Array]:
        patch_px = self.backbone.patch_px
        h, w = patches.grid(images.shape[1], images.shape[2], patch_px)
        keep, restore, mask = random_masking(noise, kept(h * w, self.mask_ratio))
        latent = self.backbone.encode(self.backbone.embed(images, keep), train)
        pred = self._decoder(patch_px**2 * images.shape[3])(latent, restore, keep.shape[1], (h, w))
        return {"pred": pred, "mask": mask, "features": jnp.mean(latent[:, -keep.shape[1] :], axis=1)}

    def _decoder(self, patch_dim: int) -> "Decoder":
        b = self.backbone
        stack = vit.Stack(
            depth=self.decoder_depth,
            heads=self.decoder_heads,
            mlp_dim=self.decoder_mlp_ratio * self.decoder_width,
            norm_eps=b.norm_eps,
            activation=b.activation,
            scan=b.scan,
            remat=b.remat,
            attention=b.attention,
            dtype=b.dtype,
            parent=None,
        )
        return Decoder(self.decoder_width, patch_dim, stack, self.decoder_posemb, name="decoder")


class Decoder(nn.Module):
    """Pixels of all patches from the encoder's tokens of the visible ones."""

    width: int
    patch_dim: int
    stack: vit.Stack

    posemb: str = "sincos2d"

    def setup(self):
        nn.share_scope(self, self.stack)

    @nn.compact
    def __call__(
        self, latent: Float[Array, "B M D"], restore: Int[Array, "B N"], visible: int, grid: tuple[int, int]
    ) -> Float[Array, "B N PPC"]:
        dtype = self.stack.dtype
        x = vit.linear(latent, self.width, dtype, "embed")
        prefix, x = jnp.split(x, [x.shape[1] - visible], axis=1)
        mask_token = self.param("mask_token", vit.NORMAL, (1, 1, self.width))
        x = restored(x, restore, mask_token.astype(dtype))
        prefix, x = self._positioned(prefix, x, grid)
        # The class token stays in front through the blocks, and is dropped after them.
        x = self.stack(jnp.concatenate([prefix, x], axis=1), False)
        x = nn.LayerNorm(self.stack.norm_eps, dtype=dtype, name="norm")(x[:, prefix.shape[1] :])
        return vit.linear(x, self.patch_dim, dtype, "pred").astype(jnp.float32)

    def _positioned(
        self, prefix: Float[Array, "B T D"], x: Float[Array, "B N D"], grid: tuple[int, int]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N D"]]:
        """Class token, if any, and patches, plus their positions; the class token's fixed one is zero."""
        if self.posemb == "sincos2d":
            return prefix, x + jnp.asarray(positions.sincos2d(*grid, self.width), x.dtype)
        x = x + self.param("position", vit.NORMAL, (1, x.shape[1], self.width)).astype(x.dtype)
        if prefix.shape[1]:
            position = self.param("cls_position", vit.NORMAL, (1, 1, self.width))
            prefix = prefix + position.astype(x.dtype)
        return prefix, x


def kept(patches_per_picture: int, mask_ratio: float) -> int:
    """How many patches stay visible: int(N * (1 - mask_ratio)), at least one.

    The small addition is for products such as 10 * (1 - 0.9), which is 0.99... in floating point.
    """
    return max(1, int(patches_per_picture * (1.0 - mask_ratio) + 1e-6))


def random_masking(
    noise: Float[Array, "B N"], visible: int
) -> tuple[Int[Array, "B K"], Int[Array, "B N"], Float[Array, "B N"]]:
    """The patches kept (least noise first), each patch's rank in the noise, and 1 where it is removed."""
    shuffle = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(shuffle, axis=1)
    return shuffle[:, :visible], restore, (restore >= visible).astype(jnp.float32)


def restored(
    tokens: Float[Array, "B K D"], restore: Int[Array, "B N"], mask_token: Float[Array, "1 1 D"]
) -> Float[Array, "B N D"]:
    """The visible tokens at their places and the mask token everywhere else."""
    visible = tokens.shape[1]
    at_place = jnp.take_along_axis(tokens, jnp.minimum(restore, visible - 1)[:, :, None], axis=1)
    return jnp.where((restore < visible)[:, :, None], at_place, mask_token)
