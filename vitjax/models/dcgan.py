"""DCGAN: a generator of transposed convolutions and its mirror image, the discriminator (Radford et al. 2016).

Both double or halve the side with kernels of 4 and have no biases and no pooling: 32, 64 or 128 px are three, four
or five layers. As `config.model.name` of a supervised run, 'dcgan' is the discriminator without its last layer.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax import sharding
from vitjax.errors import UserError
from vitjax.models import layers

SIZES = (32, 64, 128)
GRID = 4  # the side of the smallest layer, and of the features' maps
LEAK = 0.2

_NORMAL = nn.initializers.normal(0.02)
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def make(config: Any, dtype: Any = jnp.float32) -> "Backbone":
    """The discriminator's layers as the backbone that `config.model` describes.

    Raises:
      UserError: a width below 1.
    """
    return Backbone(_width(config), dtype)


def players(config: Any, size_px: int, dtype: Any = jnp.float32) -> tuple["Generator", "Discriminator"]:
    """The generator and the discriminator that `config.model` describes, for pictures of `size_px`.

    Raises:
      UserError: a size that the layers do not give, or a width below 1.
    """
    if size_px not in SIZES:
        raise UserError(
            f"config.data.size_px={size_px}: DCGAN makes pictures of {', '.join(map(str, SIZES))} px"
        )
    width = _width(config)
    return Generator(width, size_px, dtype), Discriminator(width, dtype)


class Generator(nn.Module):
    """Pictures float32 [B, S, S, 3] in -1..1 of latents [B, Z]; `y` is there for generators that know classes."""

    width: int
    size_px: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "B Z"], y: Any = None, train: bool = False) -> Float[Array, "B S S 3"]:
        count = _layers(self.size_px)
        x = z.astype(self.dtype)
        channels = [self.width * 2**i for i in reversed(range(count))]
        # A transposed convolution of a single place is a linear map.
        kernel = self.param("conv_0", _NORMAL, (GRID, GRID, channels[0], x.shape[-1]))
        x = sharding.constrain(jnp.einsum("bz,hwcz->bhwc", x, kernel.astype(x.dtype)), "batch")
        for i, out in enumerate([*channels[1:], 3], start=1):
            x = nn.relu(_norm(x, train, f"norm_{i - 1}"))
            kernel = self.param(f"conv_{i}", _NORMAL, (4, 4, out, x.shape[-1]))
            x = sharding.constrain(upsampled(x, kernel.astype(x.dtype)), "batch")
        return jnp.tanh(x.astype(jnp.float32))


class Backbone(nn.Module):
    """{'features': float32 [B, D], 'tokens': [B, 4, 4, C]} of normalised pictures [B, S, S, 3].

    Features are every layer's activations, each map's maxima on a 4 x 4 grid: those of the paper's linear
    classifier on CIFAR-10 (section 5.1). Tokens are the last layer's. The picture's side gives the layers.
    """

    COUPLES_EXAMPLES = True

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B S S 3"], train: bool = False) -> dict[str, Array]:
        x, maps = images.astype(self.dtype), []
        for i in range(_layers(images.shape[1])):
            kernel = self.param(f"conv_{i}", _NORMAL, (4, 4, x.shape[-1], self.width * 2**i))
            x = sharding.constrain(downsampled(x, kernel.astype(x.dtype)), "batch")
            # None on the first layer, whose inputs are the pixels (section 3).
            x = nn.leaky_relu(_norm(x, train, f"norm_{i}") if i else x, LEAK)
            maps.append(x)
        pooled = [_on_grid(x).reshape(x.shape[0], -1) for x in maps]
        return {"features": jnp.concatenate(pooled, -1).astype(jnp.float32), "tokens": x}


class Discriminator(nn.Module):
    """Logits float32 [B], high for what looks real, of pictures [B, S, S, 3] in -1..1."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "B S S 3"], y: Any = None, train: bool = False
    ) -> Float[Array, " B"]:
        x = Backbone(self.width, self.dtype, name="backbone")(images, train)["tokens"]
        kernel = self.param("head", _NORMAL, (GRID, GRID, x.shape[-1], 1))
        kernel = kernel.astype(x.dtype)
        return jnp.einsum("bhwc,hwcd->bd", x, kernel, preferred_element_type=jnp.float32)[:, 0]


def downsampled(x: Float[Array, "B H W C"], kernel: Float[Array, "4 4 C D"]) -> Float[Array, "B h w D"]:
    """A convolution with stride 2, padded by 1 on every side, so that h = H / 2."""
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=_DIMENSIONS)


@jax.custom_vjp
def upsampled(x: Float[Array, "B h w D"], kernel: Float[Array, "4 4 C D"]) -> Float[Array, "B H W C"]:
    """The transpose of `downsampled`: with the same kernel, <upsampled(x), y> = <x, downsampled(y)>.

    Its own gradients are those of `downsampled` in other roles. Left to itself, jax derives the kernel's from a
    dilated convolution, for which XLA has no fast program on CPUs: it takes ten times as long.
    """
    shape = (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], kernel.shape[2])
    return jax.linear_transpose(lambda y: downsampled(y, kernel), jax.ShapeDtypeStruct(shape, x.dtype))(x)[0]


def _upsampled_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return upsampled(x, kernel), (x, kernel)


def _upsampled_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    in_x, pull_back = jax.vjp(lambda kernel: downsampled(cotangent, kernel), kernel)
    return in_x, pull_back(x)[0]


upsampled.defvjp(_upsampled_forward, _upsampled_backward)


def _layers(size_px: int) -> int:
    """How often the side is halved until it is 4."""
    if size_px not in SIZES:
        raise UserError(f"DCGAN's layers halve pictures of {', '.join(map(str, SIZES))} px, not of {size_px}")
    return int(math.log2(size_px // GRID))


def _on_grid(x: Float[Array, "B H W C"]) -> Float[Array, "B 4 4 C"]:
    side = x.shape[1] // GRID
    return nn.max_pool(x, (side, side), strides=(side, side))


def _norm(x: Array, train: bool, name: str) -> Array:
    def scale_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return 1 + _NORMAL(key, shape, dtype)

    norm = nn.BatchNorm(
        use_running_average=not train,
        momentum=layers.MOMENTUM,
        epsilon=1e-5,
        dtype=x.dtype,
        scale_init=scale_init,
        name=name,
    )
    return norm(x)


def _width(config: Any) -> int:
    if config.width < 1:
        raise UserError(f"config.model.width={config.width} must be 1 or more; the paper has 64")
    return config.width
