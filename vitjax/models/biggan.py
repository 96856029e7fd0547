"""BigGAN: residual generator and discriminator that know classes, with spectral normalisation (Brock et al. 2019).

The generator's batch norms get gain and bias from the class and, where the latent is hierarchical, from a chunk of
it each. The discriminator projects its features on the class (Miyato and Koyama 2018). Batch statistics of a moving
average are not what the paper samples with: see `vitjax.sampling`. As `config.model.name` of
a supervised run, 'biggan' is the discriminator without its projection.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax import sharding
from vitjax.errors import UserError
from vitjax.models import layers, spectral

START = 4  # the side of the generator's first map
ATTENTION_SHARE = 8  # of a map's channels one in so many is a query


class Architecture(NamedTuple):
    """Widths of the blocks in multiples of `ch`, for one size of pictures.

    Attributes:
      generator: input of the first block and output of each; every block doubles the side.
      discriminator: output of each block.
      halves: whether the block halves the side.
      names: the side by which each discriminator block is known to `attention_px`.
    """

    generator: tuple[int, ...]
    discriminator: tuple[int, ...]
    halves: tuple[bool, ...]
    names: tuple[int, ...]


# The authors' tables. That of 32 px calls all its blocks 16, though three of them end at 8: attention there is
# attention everywhere.
ARCHITECTURES = {
    32: Architecture((4, 4, 4, 4), (4, 4, 4, 4), (True, True, False, False), (16,) * 4),
    64: Architecture((16, 16, 8, 4, 2), (1, 2, 4, 8, 16), (True,) * 4 + (False,), (32, 16, 8, 4, 4)),
    128: Architecture(
        (16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), (True,) * 5 + (False,), (64, 32, 16, 8, 4, 4)
    ),
    256: Architecture(
        (16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), (True,) * 6 + (False,), (128, 64, 32, 16, 8, 4, 4)
    ),
}
INITS = {"orthogonal": nn.initializers.orthogonal(), "normal": nn.initializers.normal(0.02)}


def make(config: Any, dtype: Any = jnp.float32) -> "Backbone":
    """The discriminator's blocks as the backbone that `config.model` describes.

    Raises:
      UserError: a width below 1 or an unknown initialisation.
    """
    return Backbone(config.ch, config.attention_px, _init(config), dtype)


def players(
    config: Any, size_px: int, num_classes: int, z_dim: int, dtype: Any = jnp.float32
) -> tuple["Generator", "Discriminator"]:
    """The generator and the discriminator that `config.model` describes, for pictures of `size_px`.

    Raises:
      UserError: there is no such size, attention at a side that no block has, or widths that do not fit together.
    """
    if size_px not in ARCHITECTURES:
        known = ", ".join(map(str, ARCHITECTURES))
        raise UserError(f"config.data.size_px={size_px}: BigGAN makes pictures of {known} px")
    architecture, init = ARCHITECTURES[size_px], _init(config)
    chunks = len(architecture.generator) if config.hierarchical else 1
    sides = sorted({2**i * START for i in range(1, len(architecture.generator))} & set(architecture.names))
    if config.attention_px and config.attention_px not in sides:
        raise UserError(
            f"config.model.attention_px={config.attention_px} is no side of both players at {size_px} px; choose from "
            f"{', '.join(map(str, sides))}, or 0 for none"
        )
    if config.hierarchical and not config.shared_width:
        raise UserError(
            "config.model.hierarchical=True needs a class embedding that all blocks share: set "
            "config.model.shared_width=128, or config.model.hierarchical=False"
        )
    if config.shared_width < 0:
        raise UserError(f"config.model.shared_width={config.shared_width} must be at least 0; the paper has 128")
    if config.attention_px and config.ch * min(_attended(architecture, config.attention_px)) < ATTENTION_SHARE:
        raise UserError(
            f"config.model.ch={config.ch}: attention at config.model.attention_px={config.attention_px} has an eighth "
            f"of the maps there as queries, which is none; set config.model.ch={ATTENTION_SHARE}, or attention_px=0"
        )
    if z_dim % chunks:
        near = max(chunks, z_dim // chunks * chunks)
        raise UserError(
            f"config.objective.z_dim={z_dim} must be a multiple of {chunks}, a chunk for the first map and one for "
            f"each block; try {near}, or config.model.hierarchical=False"
        )
    generator = Generator(
        config.ch, size_px, num_classes, config.shared_width, chunks, config.attention_px, init, dtype
    )
    return generator, Discriminator(config.ch, num_classes, config.attention_px, init, dtype)


class Generator(nn.Module):
    """Pictures float32 [B, S, S, 3] in -1..1 of latents [B, Z] and classes [B].

    With `train`, the collections 'batch_stats' and 'spectral' must be mutable.

    Attributes:
      shared_width: of the class embedding that all blocks see; 0: each batch norm has gains of its own, by class.
      chunks: of the latent: the first makes the first map, each other one goes to a block. 1 is not hierarchical.
    """

    ch: int
    size_px: int
    num_classes: int
    shared_width: int
    chunks: int
    attention_px: int
    weight_init: spectral.Init
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, z: Float[Array, "B Z"], y: Int[Array, " B"], train: bool = False
    ) -> Float[Array, "B S S 3"]:
        widths = [self.ch * width for width in ARCHITECTURES[self.size_px].generator]
        first, *rest = jnp.split(z.astype(self.dtype), self.chunks, axis=-1)
        conditions = self._conditions(y, rest, len(widths) - 1, train)
        x = spectral.Linear(widths[0] * START**2, self.weight_init, dtype=self.dtype, name="linear")(
            first, train
        )
        x = x.reshape(-1, widths[0], START, START).transpose(0, 2, 3, 1)
        for i, condition in enumerate(conditions):
            block = GeneratorBlock(
                widths[i + 1], self.num_classes, self.weight_init, self.dtype, name=f"block{i}"
            )
            x = block(x, condition, train)
            if x.shape[1] == self.attention_px:
                x = Attention(self.weight_init, self.dtype, name=f"attention{i}")(x, train)
        norm = nn.BatchNorm(
            use_running_average=not train, momentum=layers.MOMENTUM, epsilon=1e-5, dtype=self.dtype, name="norm"
        )
        x = spectral.Conv(3, 3, self.weight_init, dtype=self.dtype, name="conv")(nn.relu(norm(x)), train)
        return jnp.tanh(x.astype(jnp.float32))

    def _conditions(self, y: Int[Array, " B"], chunks: list[Array], blocks: int, train: bool) -> list[Array]:
        """What each block's batch norms are told: the class, or its embedding beside the block's chunk."""
        if not self.shared_width:
            return [y] * blocks
        # The one embedding that is not normalised.
        embed = spectral.Embed(
            self.num_classes,
            self.shared_width,
            self.weight_init,
            normalised=False,
            dtype=self.dtype,
            name="shared",
        )
        shared = embed(y, train)
        return [jnp.concatenate([shared, chunk], -1) for chunk in chunks] or [shared] * blocks


class GeneratorBlock(nn.Module):
    """Norm, ReLU, twice the side, 3x3; norm, ReLU, 3x3; on a shortcut of 1x1."""

    features: int
    num_classes: int
    weight_init: spectral.Init
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"], condition: Array, train: bool) -> Float[Array, "B H W D"]:
        x = sharding.constrain(x, "batch")
        conv = _convolutions(self.features, self.weight_init, self.dtype)
        y = nn.relu(
            ConditionalNorm(self.num_classes, self.weight_init, self.dtype, name="norm1")(x, condition, train)
        )
        y = conv(3, "conv1")(_doubled(y), train)
        y = nn.relu(
            ConditionalNorm(self.num_classes, self.weight_init, self.dtype, name="norm2")(y, condition, train)
        )
        y = conv(3, "conv2")(y, train)
        return y + conv(1, "shortcut")(_doubled(x), train)


class ConditionalNorm(nn.Module):
    """Batch norm with a gain of 1 + W c and a bias of V c, of the condition c; of a class, W and V are embeddings."""

    num_classes: int
    weight_init: spectral.Init
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], condition: Array, train: bool) -> Float[Array, "B H W C"]:
        norm = nn.BatchNorm(
            use_running_average=not train, momentum=layers.MOMENTUM, epsilon=1e-5, dtype=self.dtype,
            use_scale=False, use_bias=False, name="norm",
        )  # fmt: skip
        gain, bias = (self._map(name, x.shape[-1], condition, train) for name in ("gain", "bias"))
        return norm(x) * (1 + gain) + bias

    def _map(self, name: str, features: int, condition: Array, train: bool) -> Float[Array, "B 1 1 C"]:
        if condition.ndim == 1:
            layer = spectral.Embed(
                self.num_classes, features, self.weight_init, normalised=False, dtype=self.dtype, name=name
            )
        else:
            layer = spectral.Linear(features, self.weight_init, use_bias=False, dtype=self.dtype, name=name)
        return layer(condition, train)[:, None, None]


class Backbone(nn.Module):
    """{'features': float32 [B, D], 'tokens': [B, h, w, D]} of normalised pictures [B, S, S, 3].

    Features are the sum over places. With `train`, the collection 'spectral' must be mutable.
    """

    ch: int
    attention_px: int
    weight_init: spectral.Init
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B S S 3"], train: bool = False) -> dict[str, Array]:
        if images.shape[1] not in ARCHITECTURES:
            known = ", ".join(map(str, ARCHITECTURES))
            raise UserError(f"BigGAN's blocks are for pictures of {known} px, not of {images.shape[1]}")
        architecture = ARCHITECTURES[images.shape[1]]
        x = images.astype(self.dtype)
        blocks = zip(architecture.discriminator, architecture.halves, architecture.names)
        for i, (width, halves, name_px) in enumerate(blocks):
            block = DiscriminatorBlock(
                self.ch * width, halves, i == 0, self.weight_init, self.dtype, name=f"block{i}"
            )
            x = block(x, train)
            if name_px == self.attention_px:
                x = Attention(self.weight_init, self.dtype, name=f"attention{i}")(x, train)
        x = nn.relu(x)
        return {"features": jnp.sum(x, axis=(1, 2), dtype=jnp.float32), "tokens": x}


class DiscriminatorBlock(nn.Module):
    """ReLU, 3x3, ReLU, 3x3, half the side; on a shortcut. The first block has pixels, and no ReLU before them."""

    features: int
    halves: bool
    first: bool
    weight_init: spectral.Init
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w D"]:
        x = sharding.constrain(x, "batch")
        conv = _convolutions(self.features, self.weight_init, self.dtype)
        y = conv(3, "conv1")(x if self.first else nn.relu(x), train)
        y = self._pool(conv(3, "conv2")(nn.relu(y), train))
        if self.halves or x.shape[-1] != self.features:
            # The first block averages three channels before it widens them, the others widen first.
            shortcut = conv(1, "shortcut")
            x = shortcut(self._pool(x), train) if self.first else self._pool(shortcut(x, train))
        return x + y

    def _pool(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        return nn.avg_pool(x, (2, 2), strides=(2, 2)) if self.halves else x


class Discriminator(nn.Module):
    """Logits float32 [B], high for what looks like a real picture of its class, of pictures in -1..1 and classes."""

    ch: int
    num_classes: int
    attention_px: int
    weight_init: spectral.Init
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "B S S 3"], y: Int[Array, " B"], train: bool = False
    ) -> Float[Array, " B"]:
        backbone = Backbone(self.ch, self.attention_px, self.weight_init, self.dtype, name="backbone")
        features = backbone(images, train)["features"]
        # In float32: a sum over classes' directions, and a single number a picture.
        logits = spectral.Linear(1, self.weight_init, name="linear")(features, train)[:, 0]
        embedded = spectral.Embed(self.num_classes, features.shape[-1], self.weight_init, name="embed")(
            y, train
        )
        return logits + jnp.sum(embedded * features, axis=-1)


class Attention(nn.Module):
    """x + gamma * attention over all places, keys and values being the maxima of 2 x 2 places (Zhang et al. 2019).

    gamma starts at 0. The products are not scaled by the width.
    """

    weight_init: spectral.Init
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        batch, _, _, channels = x.shape
        gamma = self.param("gamma", nn.initializers.zeros, ())

        def conv(features: int, name: str, x: Array) -> Array:
            layer = spectral.Conv(features, 1, self.weight_init, use_bias=False, dtype=self.dtype, name=name)
            return layer(x, train)

        def pooled(x: Array) -> Array:
            return nn.max_pool(x, (2, 2), strides=(2, 2)).reshape(batch, -1, x.shape[-1])

        queries = conv(channels // ATTENTION_SHARE, "query", x).reshape(batch, -1, channels // ATTENTION_SHARE)
        keys, values = pooled(conv(channels // ATTENTION_SHARE, "key", x)), pooled(conv(channels // 2, "value", x))
        products = jnp.einsum("bnd,bmd->bnm", queries, keys, preferred_element_type=jnp.float32)
        mixed = jax.nn.softmax(products, axis=-1).astype(self.dtype) @ values
        out = conv(channels, "out", mixed.reshape(*x.shape[:3], channels // 2))
        return x + gamma.astype(self.dtype) * out


def _attended(architecture: Architecture, px: int) -> list[int]:
    """The widths of the maps that have attention, in both players."""
    made = [width for i, width in enumerate(architecture.generator[1:], start=1) if START * 2**i == px]
    judged = zip(architecture.names, architecture.discriminator)
    return made + [width for name_px, width in judged if name_px == px]


def _convolutions(features: int, init: spectral.Init, dtype: Any) -> Any:
    """(kernel, name) -> a convolution to `features`."""
    return lambda kernel, name: spectral.Conv(features, kernel, init, dtype=dtype, name=name)


def _doubled(x: Float[Array, "B H W C"]) -> Float[Array, "B 2H 2W C"]:
    """Each place four times."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def _init(config: Any) -> spectral.Init:
    if config.ch < 1:
        raise UserError(f"config.model.ch={config.ch} must be 1 or more; the paper has 96")
    if config.init not in INITS:
        raise UserError(f"config.model.init={config.init!r} is not known; choose from {', '.join(INITS)}")
    return INITS[config.init]
