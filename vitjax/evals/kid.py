"""Kernel inception distance: the squared maximum mean discrepancy of made and real pictures in a network's features.

Lower is better. The kernel is (x.y / D + 1)^3, and the estimate has no bias: where both are alike it is near 0 and may
be below, however few pictures there are. It is a mean over subsets, beside its deviation over them.

Source: Binkowski et al., 2018, Demystifying MMD GANs, section 3.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from vitjax.errors import UserError
from vitjax.evals import Evaluator, features, generated

SEED = 0  # of the subsets


def make(config: Any, run: Any) -> Evaluator:
    """The evaluator 'kid': config.samples made pictures against the real ones of config.eval_split.

    Raises:
      UserError: there would be less than two pictures in a subset, or no subset.
    """
    chosen = generated.choice(config, least=2)
    subsets, subset_size = config.subsets, config.subset_size
    if subsets < 1 or subset_size < 2:
        raise UserError(
            f"config.evals.{config.name}.subsets={subsets} and subset_size={subset_size} must be at least 1 and 2"
        )

    def evaluate(extract: features.Extract, mesh: Mesh) -> dict[str, float]:
        sets = chosen.sets(extract, "features")
        found = []
        for value in estimates(sets.made, sets.real.x, subsets, subset_size):
            found.append(value)
            extract.tell(f"subset {len(found):,}")
        name = extract.network.figure("kid")
        return sets.summary({name: float(np.mean(found)), f"{name}_std": float(np.std(found))})

    return Evaluator(("generate",), (chosen.split,), evaluate, (chosen.network, "features"))


def estimates(
    made: Float[np.ndarray, "n D"], real: Float[np.ndarray, "m D"], subsets: int, subset_size: int
) -> Iterator[float]:
    """The discrepancy of each random subset of both; with fewer pictures than that, all subsets are the same."""
    size, rng = min(subset_size, len(made), len(real)), np.random.default_rng(SEED)
    for _ in range(subsets):
        x, y = (of[rng.choice(len(of), size, replace=False)] for of in (made, real))
        yield discrepancy(x, y)


def discrepancy(x: Float[np.ndarray, "n D"], y: Float[np.ndarray, "n D"]) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy: no picture is compared with itself."""

    def apart(kernel: Float[np.ndarray, "n n"]) -> float:
        n = len(kernel)
        return (kernel.sum() - np.trace(kernel)) / (n * (n - 1))

    return float(apart(_kernel(x, x)) + apart(_kernel(y, y)) - 2 * _kernel(x, y).mean())


def _kernel(x: Float[np.ndarray, "n D"], y: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n n"]:
    # The products as they come, float32; what is added up and subtracted from each other is float64.
    return ((x @ y.T).astype(np.float64) / x.shape[1] + 1) ** 3
