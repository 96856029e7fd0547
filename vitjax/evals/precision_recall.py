"""Precision and recall of a generator: how many made pictures look real, and how many real ones it could make.

Precision is the share of made pictures that lie in a ball around a real one, recall that of real pictures in a ball
around a made one; a ball reaches to its centre's k-th neighbour among its own kind. Both depend on the number of
pictures: compare equal ones.

Source: Kynkäänniemi et al., 2019, Improved precision and recall metric for assessing generative models, equation 1.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from vitjax.errors import UserError
from vitjax.evals import Evaluator, features, generated

DISTANCES = 2**25  # alive at a time
MOST_ROWS = 2048


def make(config: Any, run: Any) -> Evaluator:
    """The evaluator 'precision_recall': config.samples made pictures and the real ones of config.eval_split.

    Raises:
      UserError: there would be too few pictures for config.k neighbours.
    """
    k = config.k
    if k < 1:
        raise UserError(f"config.evals.{config.name}.k={k} must be at least 1; published figures have 3")
    chosen = generated.choice(config, least=k + 1)

    def evaluate(extract: features.Extract, mesh: Mesh) -> dict[str, float]:
        sets = chosen.sets(extract, "features")
        if sets.real.n <= k:
            raise UserError(f"config.evals.{config.name}.k={k}: split {chosen.split!r} has {sets.real.n} pictures only")
        precision, recall = precision_recall(sets.made, sets.real.x, k, extract.tell)
        return sets.summary({"precision": precision, "recall": recall})

    return Evaluator(("generate",), (chosen.split,), evaluate, (chosen.network, "features"))


def precision_recall(
    made: Float[np.ndarray, "n D"], real: Float[np.ndarray, "m D"], k: int, tell: features.Tell = features.silent
) -> tuple[float, float]:
    """Both shares; the matrix of distances is never whole."""
    # Squares of what is far from 0 would lose in float32 the small differences that count.
    middle = real.mean(0)
    made, real = made - middle, real - middle
    tell("neighbours of real pictures")
    covered = within(made, real, radii(real, k))
    tell("neighbours of made pictures")
    return float(covered.mean()), float(within(real, made, radii(made, k)).mean())


def radii(x: Float[np.ndarray, "n D"], k: int) -> Float[np.ndarray, " n"]:
    """The squared distance of each row to its k-th nearest other row; a copy of it is another one."""
    return _over_blocks(x, x, lambda rows, numbers, x: _kth(rows, numbers, x, k))


def within(
    x: Float[np.ndarray, "n D"], centres: Float[np.ndarray, "m D"], squared: Float[np.ndarray, " m"]
) -> Bool[np.ndarray, " n"]:
    """Which rows lie in one of the balls."""
    return _over_blocks(x, centres, lambda rows, numbers, centres: _covered(rows, centres, squared))


def _over_blocks(x: np.ndarray, y: np.ndarray, function: Any) -> np.ndarray:
    """function(rows, their numbers, y on the device), all rows of x one block after the other."""
    y_there = jnp.asarray(y)
    found = [np.asarray(function(*block, y_there)) for block in _blocks(x, len(y))]
    return np.concatenate(found)[: len(x)]


def _blocks(x: np.ndarray, others: int) -> Iterator[tuple[np.ndarray, Int[np.ndarray, " R"]]]:
    """Blocks of equal size, so that one function is compiled; the last one is filled up with its last row."""
    size = max(1, min(MOST_ROWS, DISTANCES // others, len(x)))
    for start in range(0, len(x), size):
        numbers = np.minimum(np.arange(start, start + size), len(x) - 1).astype(np.int32)
        yield x[numbers], numbers


@functools.partial(jax.jit, static_argnames="k")
def _kth(rows: Float[Array, "R D"], numbers: Int[Array, " R"], x: Float[Array, "n D"], k: int) -> Float[Array, " R"]:
    itself = numbers[:, None] == jnp.arange(len(x))
    nearest, _ = jax.lax.top_k(-jnp.where(itself, jnp.inf, _squared(rows, x)), k)
    return -nearest[:, -1]


@jax.jit
def _covered(
    rows: Float[Array, "R D"], centres: Float[Array, "m D"], squared: Float[Array, " m"]
) -> Bool[Array, " R"]:
    return (_squared(rows, centres) <= squared).any(1)


def _squared(x: Float[Array, "R D"], y: Float[Array, "m D"]) -> Float[Array, "R m"]:
    # Full precision: an accelerator's default of 10 bits would change who is whose neighbour.
    products = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(jnp.square(x).sum(1)[:, None] + jnp.square(y).sum(1) - 2 * products, 0)
