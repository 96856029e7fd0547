"""Fixed position embeddings, as numpy constants."""

import numpy as np
from jaxtyping import Float

from vitjax.errors import UserError


def sincos2d(height: int, width: int, dim: int) -> Float[np.ndarray, "N D"]:
    """One row a patch, row-major, in the form of MAE: [sin col, cos col, sin row, cos row].

    Three published forms disagree. MoCo v3 puts the row first; big_vision divides by dim/4 - 1, so that its
    last frequency is exactly 1/10000. Weights trained with one form are silently wrong with another.

    Raises:
      UserError: `dim` is not a multiple of four.
    Source: He et al. 2022 (MAE), facebookresearch/mae util/pos_embed.py.
    """
    if dim % 4:
        raise UserError(
            f"sincos2d positions need a width that four divides, not {dim}; try {dim // 4 * 4 or 4}"
        )
    omega = 10000.0 ** -(np.arange(dim // 4, dtype=np.float64) / (dim // 4))
    rows, cols = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    halves = [_sincos(axis.reshape(-1, 1) * omega) for axis in (cols, rows)]
    return np.concatenate(halves, axis=1).astype(np.float32)


def _sincos(angle: np.ndarray) -> np.ndarray:
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
