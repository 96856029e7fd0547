"""Gaussian blur, one sigma a picture, by two products with a band of weights or by its taps.

Accelerators like the products: a row of a blurred picture is a row of a Toeplitz matrix times the picture,
which multiplies mostly by zeros and takes next to no time. Processors do only what is not zero. Both are
chosen by what the program is compiled for and are equal up to rounding.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax.augment import draws

EDGES = ("zero", "repeat")
# The kernel of a picture that is spared is 1 in its middle and exactly 0 beside it.
_NO_SIGMA = 1e-3


def random_blur(
    units: draws.Units,
    images: Float[Array, "B 3 H W"],
    probability: float,
    sigma: tuple[float, float],
    kernel_px: int,
    edge: str,
) -> Float[Array, "B 3 H W"]:
    """Pictures, of which some are blurred, with a sigma uniform in `sigma`."""
    which = draws.coin(units, draws.BLUR, probability)
    sigmas = jnp.where(which, draws.uniform(units, draws.SIGMA, *sigma), _NO_SIGMA)
    return gaussian_blur(images, sigmas, kernel_px, edge)


def gaussian_blur(
    images: Float[Array, "B 3 H W"], sigmas: Float[Array, " B"], kernel_px: int, edge: str
) -> Float[Array, "B 3 H W"]:
    """Each picture, blurred by a Gaussian that is cut off after `kernel_px` (odd) pixels and then sums to 1.

    Args:
      edge: what lies around a picture. 'zero', as in the code of SimCLR and BYOL, darkens its borders;
        'repeat' is its last pixel, as in Pillow.
    """
    radius = kernel_px // 2
    ways = dict(cpu=partial(_by_taps, radius, edge), default=partial(_by_products, radius, edge))
    return jax.lax.platform_dependent(images, sigmas, **ways)


def published_kernel_px(size_px: int) -> int:
    """The kernel of SimCLR for pictures of this side: a tenth of it, made odd."""
    return size_px // 10 // 2 * 2 + 1


def _by_products(
    radius: int, edge: str, images: Float[Array, "B 3 H W"], sigmas: Float[Array, " B"]
) -> Float[Array, "B 3 H W"]:
    height, width = images.shape[2:]
    rows, columns = (_toeplitz(sigmas, radius, side, edge) for side in (height, width))
    high = jax.lax.Precision.HIGH  # as of the crops
    tall = jnp.einsum("bsh,bchw->bcsw", rows, images, precision=high)
    return jnp.einsum("btw,bcsw->bcst", columns, tall, precision=high)


def _by_taps(
    radius: int, edge: str, images: Float[Array, "B 3 H W"], sigmas: Float[Array, " B"]
) -> Float[Array, "B 3 H W"]:
    height, width = images.shape[2:]
    taps = [tap[:, None, None, None] for tap in _kernels(sigmas, radius, _offsets(radius)).T]
    around = ((0, 0), (0, 0), (radius, radius), (radius, radius))
    # Padded once for both ways: a pad between them would be fused into the first, and slow it down threefold.
    padded = jnp.pad(images, around, mode="constant" if edge == "zero" else "edge")
    tall = sum(tap * padded[:, :, i : i + height] for i, tap in enumerate(taps))
    return sum(tap * tall[..., i : i + width] for i, tap in enumerate(taps))


def _toeplitz(sigmas: Float[Array, " B"], radius: int, side: int, edge: str) -> Float[Array, "B S S"]:
    """What each pixel along an axis adds to each blurred one."""
    blurred, source = np.arange(side)[:, None], np.arange(-radius, side + radius)
    weights = _kernels(sigmas, radius, source - blurred)
    inside = weights[..., radius : radius + side]
    if edge == "repeat":
        before, after = weights[..., :radius], weights[..., radius + side :]
        inside = inside.at[..., 0].add(before.sum(-1)).at[..., -1].add(after.sum(-1))
    return inside


def _kernels(sigmas: Float[Array, " B"], radius: int, offset: np.ndarray) -> Float[Array, "B ..."]:
    """The kernel of each picture at these offsets from its middle."""

    def height(sigma: Float[Array, ""], offset: np.ndarray) -> Float[Array, "..."]:
        return jnp.exp(-0.5 * (offset.astype(np.float32) / sigma) ** 2)

    def kernel(sigma: Float[Array, ""]) -> Float[Array, "..."]:
        inside = jnp.where(np.abs(offset) <= radius, height(sigma, offset), 0.0)
        return inside / jnp.sum(height(sigma, _offsets(radius)))

    return jax.vmap(kernel)(sigmas)


def _offsets(radius: int) -> np.ndarray:
    return np.arange(-radius, radius + 1)
