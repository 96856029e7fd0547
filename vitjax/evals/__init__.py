"""Evaluators: one file each, found by its name, with the one door `make(config, run) -> Evaluator`."""

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Evaluator(NamedTuple):
    """What is measured of a model.

    Attributes:
      needs: names that the objective's `predict` must have.
      splits: the splits of the data that it looks at.
      evaluate: (extract, mesh) -> {'accuracy': ..., 'n': ..., ...}.
        extract: (output, split, limit, fields) -> features.Features, each picture exactly once, with one
        set of weights; limit 0 is all. The caller evaluates every variant (trained, random_init,
        raw_pixels) with the same function and puts the prefix before the names. What takes longer than
        seconds beside it calls `extract.tell(what)` every so often.
      network: of evaluators that compare pictures by a network which is not the evaluated one: where it is, and what is
        asked of it ('features' or 'logits'). `extract.network` is it then; see `vitjax.evals.generated`.
    """

    needs: tuple[str, ...]
    splits: tuple[str, ...]
    evaluate: Callable[..., Mapping[str, float]]
    network: tuple[str, str] | None = None
