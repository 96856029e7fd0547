"""Position embeddings of a grid of patches: fixed ones as numpy constants, learned ones for other grids."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax.errors import UserError

# The published forms that are constants, and whether the row comes first in them.
FIXED = {"sincos2d": False, "sincos2d_row_first": True}
CUBIC_A = -0.75  # torch's; jax.image and Pillow have -0.5, which moves a 3 to 5 resize by up to 0.12


def fixed(posemb: str, height: int, width: int, dim: int) -> Float[np.ndarray, "N D"]:
    """The constants that `config.model.posemb` names, one row a patch."""
    return sincos2d(height, width, dim, row_first=FIXED[posemb])


def sincos2d(height: int, width: int, dim: int, row_first: bool = False) -> Float[np.ndarray, "N D"]:
    """One row a patch, row-major, in the form of MAE: [sin col, cos col, sin row, cos row].

    Three published forms disagree. MoCo v3 puts the row first (`row_first`); big_vision divides by dim/4 - 1, so
    that its last frequency is exactly 1/10000. Weights trained with one form are silently wrong with another.

    Raises:
      UserError: `dim` is not a multiple of four.
    Source: He et al. 2022 (MAE), facebookresearch/mae util/pos_embed.py; Chen et al. 2021 (MoCo v3),
      facebookresearch/moco-v3 vits.py.
    """
    if dim % 4:
        raise UserError(
            f"sincos2d positions need a width that four divides, not {dim}; try {dim // 4 * 4 or 4}"
        )
    omega = 10000.0 ** -(np.arange(dim // 4, dtype=np.float64) / (dim // 4))
    rows, cols = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    axes = (rows, cols) if row_first else (cols, rows)
    halves = [_sincos(axis.reshape(-1, 1) * omega) for axis in axes]
    return np.concatenate(halves, axis=1).astype(np.float32)


def resampled(position: Float[Array, "1 N D"], height: int, width: int) -> Float[Array, "1 M D"]:
    """Learned positions of a square grid for one of `height` x `width` patches; the same, if that is theirs.

    Bicubic as torch's `interpolate(size=...)` has it, without antialiasing, as in DeiT, MAE and timm. DINO's code
    asks for a factor that is larger by 0.1 patches instead, against a rounding error, and so samples places
    that are off by up to 1.6% of the grid.

    Raises:
      UserError: the positions are of no square grid.
    """
    side = math.isqrt(position.shape[1])
    if side**2 != position.shape[1]:
        raise UserError(
            f"{position.shape[1]} learned positions are of no square grid and cannot be resampled"
        )
    if (height, width) == (side, side):
        return position
    rows, columns = (jnp.asarray(cubic(side, n), position.dtype) for n in (height, width))
    grid = position.reshape(side, side, -1)
    out = jnp.einsum("hs,wt,std->hwd", rows, columns, grid, precision="highest")
    return out.reshape(1, height * width, -1)


def cubic(length: int, new: int) -> Float[np.ndarray, "M N"]:
    """The matrix that resamples `length` values to `new` ones, by four neighbours each.

    Pixels are cells (torch's align_corners=False), and the outermost are repeated beyond the edge. Shrinking
    skips values: there is no antialiasing.
    """
    matrix = np.zeros((new, length))
    place = (np.arange(new) + 0.5) * length / new - 0.5
    for tap in range(-1, 3):
        index = np.floor(place) + tap
        weight = _keys(np.abs(place - index))
        np.add.at(matrix, (np.arange(new), np.clip(index, 0, length - 1).astype(int)), weight)
    return matrix


def _keys(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel of distances from 0 to 2."""
    a, d = CUBIC_A, distance
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    return np.where(d <= 1, near, a * (d**3 - 5 * d**2 + 8 * d - 4))


def _sincos(angle: np.ndarray) -> np.ndarray:
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
