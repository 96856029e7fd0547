"""Evaluators: one file each, found by its name, with the one door `make(config, run) -> Evaluator`."""

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Evaluator(NamedTuple):
    """What is measured of a model.

    Attributes:
      needs: names that the objective's `predict` must have.
      evaluate: (features_of, batches, mesh) -> {'accuracy': ..., 'n': ..., ...}.
        features_of: a batch on the device -> float32 [B, D], bound to one set of weights and jitted.
        batches: (split, limit) -> iterator of host batches, each record exactly once; limit 0 is all.
        The caller evaluates every variant (trained, random_init, raw_pixels) with the same function
        and puts the prefix before the names.
    """

    needs: tuple[str, ...]
    evaluate: Callable[..., Mapping[str, float]]
