"""Convolutions as they are fastest; in the place of `lax.conv_general_dilated` in `flax.linen.Conv`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from vitjax import sharding

# XLA has no fast convolution on CPUs for maps that are smaller than the kernel: at 2x2 it takes 44 times as long as
# the product. Maps of more places than these would cost more operations as a product.
FEW_PLACES = 4
# Numbers in a block of patches: 8 MB, which stay in a core's cache from when they are gathered until they are used.
BLOCK = 2**21
LEFT_TO_LAX = ("lhs_dilation", "rhs_dilation", "feature_group_count")
LAYOUT = ("NHWC", "HWIO", "NHWC")  # flax's


def convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k k C D"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    precision: Any = None,
    dimension_numbers: Any = LAYOUT,
    **settings: Any,
) -> Float[Array, "B h w D"]:
    """`lax.conv_general_dilated` of square kernels, with the same stride and padding in both directions.

    What has no more than FEW_PLACES places in the end, each of which sees most of the map, is one matrix product, and
    a 1x1 kernel sees only the pixels that its stride leaves. `settings` are lax's; dilation and groups are left to it.
    There is no forward-mode derivative: the one in the kernel is our own, for CPUs.
    """
    settings = dict(precision=precision, dimension_numbers=dimension_numbers, **settings)
    if any(settings.get(name, 1) not in (1, (1, 1)) for name in LEFT_TO_LAX):
        return lax.conv_general_dilated(x, kernel, strides, padding, **settings)
    size, (stride, _), ((before, after), _) = kernel.shape[0], strides, padding
    if size == 1 and not before and not after:
        x, stride = x[:, ::stride, ::stride], 1
    height, width = ((side + before + after - size) // stride + 1 for side in x.shape[1:3])
    if not 0 < height * width <= FEW_PLACES or size == 1:
        return _convolved(x, kernel, stride, (before, after), settings)
    whole = _on_the_map(kernel, x.shape[1:3], (height, width), stride, before)
    y = jnp.dot(x.reshape(len(x), -1), whole.reshape(-1, height * width * kernel.shape[-1]), precision=precision)
    return y.reshape(len(x), height, width, -1)


def _convolved(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k k C D"],
    stride: int,
    padding: tuple[int, int],
    settings: dict[str, Any],
) -> Float[Array, "B h w D"]:
    """The convolution of lax, whose gradient in the kernel is on one CPU worked out by `_kernel_gradient`."""

    def plain(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(x, kernel, (stride, stride), (padding, padding), **settings)

    if sharding.shards_in_use() > 1:
        # What is summed over blocks would be summed over devices at each of them.
        return plain(x, kernel)

    def backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
        x, kernel = saved
        (dx,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(dy)
        dkernel = lax.platform_dependent(
            x,
            dy,
            cpu=lambda x, dy: _kernel_gradient(x, dy, kernel.shape[0], stride, padding, settings["precision"]),
            default=lambda x, dy: jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)(dy)[0],
        )
        return dx, dkernel.astype(kernel.dtype)

    convolution: Callable[[Array, Array], Array] = jax.custom_vjp(plain)
    convolution.defvjp(lambda x, kernel: (plain(x, kernel), (x, kernel)), backward)
    return convolution(x, kernel)


def _kernel_gradient(
    x: Float[Array, "B H W C"],
    dy: Float[Array, "B h w D"],
    size: int,
    stride: int,
    padding: tuple[int, int],
    precision: Any,
) -> Float[Array, "k k C D"]:
    """The gradient of a convolution in its kernel: patches of `x`, gathered for a few pictures at a time, times `dy`.

    XLA's own takes two to three times as long on CPUs: it puts all pictures of both arrays into another order first.
    """
    (pictures, height, width, features), channels = dy.shape, x.shape[3]
    if not x.size or not dy.size:
        return jnp.zeros((size, size, channels, features), jnp.float32)
    at_once = max(1, BLOCK // (height * width * size**2 * channels))
    blocks = next(count for count in range(1, pictures + 1) if pictures % count == 0 and pictures // count <= at_once)

    def of_block(x: Float[Array, "b H W C"], dy: Float[Array, "b h w D"]) -> Float[Array, "D k*k*C"]:
        # Without the barrier each of the slices is padded for itself, number by number.
        around = lax.optimization_barrier(jnp.pad(x, ((0, 0), padding, padding, (0, 0))))
        patches = jnp.concatenate(
            [
                around[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
                for i in range(size)
                for j in range(size)
            ],
            axis=-1,
        )
        # In this order the smaller of the two is the one that is transposed.
        subscripts = "bhwd,bhwp->dp"
        return jnp.einsum(subscripts, dy, patches, precision=precision, preferred_element_type=jnp.float32)

    def add(total: Float[Array, "D k*k*C"], block: tuple[Array, Array]) -> tuple[Float[Array, "D k*k*C"], None]:
        return total + of_block(*block), None

    in_blocks = tuple(a.reshape(blocks, -1, *a.shape[1:]) for a in (x, dy))
    total, _ = lax.scan(add, jnp.zeros((features, size**2 * channels), jnp.float32), in_blocks)
    return total.T.reshape(size, size, channels, features)


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
