"""Inputs and weights that golden numbers were made with: formulas, no random numbers."""

from collections.abc import Mapping, Sequence

import numpy as np

CONSTANTS = {"logit_scale": np.log(10.0), "logit_bias": -2.0}


def wave(start: float, shape: Sequence[int]) -> np.ndarray:
    """float64 [shape] whose flat element k is sin(start + k)."""
    return np.sin(start + np.arange(np.prod(shape, dtype=int))).reshape(shape)


def hash_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """A torch state dict, in its own order, filled by a hash of each entry's and each element's number."""
    return {name: _entry(name, i, tuple(shape)) for i, (name, shape) in enumerate(shapes.items())}


def _entry(name: str, i: int, shape: tuple[int, ...]) -> np.ndarray:
    k = np.arange(np.prod(shape, dtype=int), dtype=np.uint64)
    h = ((k + 1) * 2654435761 + (i + 1) * 40503) % 2**32
    h ^= h >> np.uint64(15)
    h = h * 2246822519 % 2**32
    h ^= h >> np.uint64(13)
    a = (2.0 * h / 2**32 - 1).reshape(shape)
    if name in CONSTANTS:
        return np.full(shape, CONSTANTS[name])
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.split(".")[-1].startswith("sv"):  # the value that spectral normalisation found last
        return np.ones(shape)
    if name.endswith(("running_var", "stored_var")):
        return 1 + 0.5 * a**2
    if len(shape) >= 2:
        return a * np.sqrt(3 * shape[0] / a.size)
    return 1 + 0.2 * a if name.endswith(("weight", "gain")) else 0.2 * a
