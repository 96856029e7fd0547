"""Convolutions as they are fastest; in the place of `lax.conv_general_dilated` in `flax.linen.Conv`."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# XLA has no fast convolution on CPUs for maps that are smaller than the kernel: at 2x2 it takes 44 times as long as
# the product. Maps of more places than these would cost more operations as a product.
FEW_PLACES = 4


def convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k k C D"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **settings: Any,
) -> Float[Array, "B h w D"]:
    """`lax.conv_general_dilated` of square kernels in one group; `settings` go to it.

    What has no more than FEW_PLACES places in the end, each of which sees most of the map, is one matrix product, and
    a 1x1 kernel sees only the pixels that its stride leaves.
    """
    size, (stride, _), ((before, after), _) = kernel.shape[0], strides, padding
    if size == 1 and not before and not after:
        x = x[:, ::stride, ::stride]
        return lax.conv_general_dilated(x, kernel, (1, 1), padding, **settings)
    height, width = ((side + before + after - size) // stride + 1 for side in x.shape[1:3])
    if not 0 < height * width <= FEW_PLACES:
        return lax.conv_general_dilated(x, kernel, strides, padding, **settings)
    whole = _on_the_map(kernel, x.shape[1:3], (height, width), stride, before)
    y = x.reshape(len(x), -1) @ whole.reshape(-1, height * width * kernel.shape[-1])
    return y.reshape(len(x), height, width, -1)


def _on_the_map(
    kernel: Float[Array, "k k C D"], shape: Sequence[int], places: Sequence[int], stride: int, before: int
) -> Float[Array, "H W C P D"]:
    """What each place of the result sees of the map: the kernel where it lies there, and zeros elsewhere."""
    height, width = shape
    around = jnp.pad(kernel, ((height, height), (width, width), (0, 0), (0, 0)))
    seen = [
        around[top : top + height, left : left + width]
        for top in (height + before - stride * i for i in range(places[0]))
        for left in (width + before - stride * j for j in range(places[1]))
    ]
    return jnp.stack(seen, axis=3)
