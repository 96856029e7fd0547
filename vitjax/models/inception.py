"""Inception-v3 (Szegedy et al. 2016), in torchvision's form and in that which FID is measured with.

Both have the same weights' names and shapes. They differ in the 3x3 pooling inside of the blocks: torchvision's
average counts the zeros of the padding, TensorFlow's, from which FID's network comes, does not, and the last block of
FID's takes the maximum. With the other's weights either gives plausible features, and a distance that means nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax import sharding
from vitjax.errors import UserError

VARIANTS = ("torchvision", "fid")
SIZE_PX = 299
LEAST_PX = 75  # of less, the last grid reduction leaves nothing

Pool = Callable[[Array], Array]


def make(config: Any, dtype: Any = jnp.float32) -> "Inception":
    """The backbone that `config.model` describes.

    Raises:
      UserError: the variant is not among the choices.
    """
    if config.variant not in VARIANTS:
        raise UserError(f"config.model.variant={config.variant!r} is not known; choose from {', '.join(VARIANTS)}")
    return Inception(config.variant, dtype)


class Inception(nn.Module):
    """{'features': float32 [B, 2048], 'tokens': [B, h, w, 2048]} of pictures in -1..1, 299 px by rights.

    Features are the mean over places ('pool3'). There is no auxiliary classifier. Modules have torchvision's names.
    """

    COUPLES_EXAMPLES = True

    variant: str = "torchvision"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool = False) -> dict[str, Array]:
        if min(images.shape[1:3]) < LEAST_PX:
            raise UserError(f"Inception-v3 needs pictures of {LEAST_PX} px or more, not {images.shape[1:3]}")
        pool = _mean_with_zeros if self.variant == "torchvision" else _mean
        x = self._stem(images.astype(self.dtype), train)
        for name, pool_width in (("5b", 32), ("5c", 64), ("5d", 64)):
            x = BlockA(pool_width, pool, name=f"Mixed_{name}")(x, train)
        x = BlockB(name="Mixed_6a")(x, train)
        for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = BlockC(width, pool, name=f"Mixed_{name}")(x, train)
        x = BlockD(name="Mixed_7a")(x, train)
        x = BlockE(pool, name="Mixed_7b")(x, train)
        x = BlockE(pool if self.variant == "torchvision" else _maximum, name="Mixed_7c")(x, train)
        return {"features": x.mean(axis=(1, 2), dtype=jnp.float32), "tokens": x}

    def _stem(self, x: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w 192"]:
        x = Unit(32, (3, 3), 2, padded=False, name="Conv2d_1a_3x3")(x, train)
        x = Unit(32, (3, 3), padded=False, name="Conv2d_2a_3x3")(x, train)
        x = _shrunk(Unit(64, (3, 3), name="Conv2d_2b_3x3")(x, train))
        x = Unit(80, name="Conv2d_3b_1x1")(x, train)
        return _shrunk(Unit(192, (3, 3), padded=False, name="Conv2d_4a_3x3")(x, train))


class Unit(nn.Module):
    """Convolution, batch norm, relu. Without stride it keeps the size, unless it is not padded."""

    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w D"]:
        pads = [(k // 2 if self.padded and self.stride == 1 else 0,) * 2 for k in self.kernel]
        conv = nn.Conv(
            self.width,
            self.kernel,
            strides=self.stride,
            padding=pads,
            use_bias=False,
            dtype=x.dtype,
            kernel_init=nn.initializers.normal(0.1),
            name="conv",
        )
        norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-3, dtype=x.dtype, name="bn")
        return nn.relu(norm(conv(x)))


class Conv(NamedTuple):
    """One unit of a branch."""

    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


def _branch(x: Array, train: bool, name: str, *convs: Conv) -> Array:
    """Units one after the other, numbered where there are several; to be called inside of a module."""
    for i, conv in enumerate(convs, start=1):
        x = Unit(*conv, name=name if len(convs) == 1 else f"{name}_{i}")(x, train)
    return x


class BlockA(nn.Module):
    """1x1, 5x5, two 3x3 and a pooled branch, side by side."""

    pool_width: int
    pool: Pool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W D"]:
        x = sharding.constrain(x, "batch")
        out = [
            _branch(x, train, "branch1x1", Conv(64)),
            _branch(x, train, "branch5x5", Conv(48), Conv(64, (5, 5))),
            _branch(x, train, "branch3x3dbl", Conv(64), Conv(96, (3, 3)), Conv(96, (3, 3))),
            _branch(self.pool(x), train, "branch_pool", Conv(self.pool_width)),
        ]
        return jnp.concatenate(out, axis=-1)


class BlockB(nn.Module):
    """A grid of half the size: 3x3, two 3x3 and a maximum, side by side."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w D"]:
        x = sharding.constrain(x, "batch")
        out = [
            _branch(x, train, "branch3x3", Conv(384, (3, 3), 2)),
            _branch(x, train, "branch3x3dbl", Conv(64), Conv(96, (3, 3)), Conv(96, (3, 3), 2)),
            _shrunk(x),
        ]
        return jnp.concatenate(out, axis=-1)


class BlockC(nn.Module):
    """1x1, a 7x7 and two 7x7 as rows and columns, and a pooled branch, side by side."""

    width: int
    pool: Pool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W 768"]:
        x = sharding.constrain(x, "batch")
        narrow, row, column = Conv(self.width), Conv(self.width, (1, 7)), Conv(self.width, (7, 1))
        last_row, last_column = Conv(192, (1, 7)), Conv(192, (7, 1))
        out = [
            _branch(x, train, "branch1x1", Conv(192)),
            _branch(x, train, "branch7x7", narrow, row, last_column),
            _branch(x, train, "branch7x7dbl", narrow, column, row, column, last_row),
            _branch(self.pool(x), train, "branch_pool", Conv(192)),
        ]
        return jnp.concatenate(out, axis=-1)


class BlockD(nn.Module):
    """A grid of half the size again: 3x3, 7x7 and 3x3, and a maximum, side by side."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w D"]:
        x = sharding.constrain(x, "batch")
        seven = (Conv(192), Conv(192, (1, 7)), Conv(192, (7, 1)), Conv(192, (3, 3), 2))
        out = [
            _branch(x, train, "branch3x3", Conv(192), Conv(320, (3, 3), 2)),
            _branch(x, train, "branch7x7x3", *seven),
            _shrunk(x),
        ]
        return jnp.concatenate(out, axis=-1)


class BlockE(nn.Module):
    """1x1, twice a fork into a row and a column, and a pooled branch, side by side."""

    pool: Pool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W 2048"]:
        x = sharding.constrain(x, "batch")
        row, column = Conv(384, (1, 3)), Conv(384, (3, 1))
        three = _branch(x, train, "branch3x3_1", Conv(384))
        double = _branch(x, train, "branch3x3dbl", Conv(448), Conv(384, (3, 3)))
        out = [
            _branch(x, train, "branch1x1", Conv(320)),
            _branch(three, train, "branch3x3_2a", row),
            _branch(three, train, "branch3x3_2b", column),
            _branch(double, train, "branch3x3dbl_3a", row),
            _branch(double, train, "branch3x3dbl_3b", column),
            _branch(self.pool(x), train, "branch_pool", Conv(192)),
        ]
        return jnp.concatenate(out, axis=-1)


def _shrunk(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2))


def _mean_with_zeros(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), padding=((1, 1), (1, 1)))


def _mean(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), padding=((1, 1), (1, 1)), count_include_pad=False)


def _maximum(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), padding=((1, 1), (1, 1)))  # pads with -inf
