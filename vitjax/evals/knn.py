"""Weighted k-nearest-neighbour classification of frozen features: no training, no settings to tune.

score_c = sum over the k nearest training pictures of class c of exp(cos / temperature).

The bank of training features streams through the devices in blocks, each block once, against queries that
are split over the devices; a running top k is all that is kept, so memory does not grow with the bank and
the [queries, bank] matrix never exists.

Source: Wu et al. 2018, https://arxiv.org/abs/1805.01978; k = 20 and temperature 0.07 as in DINO.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from vitjax.errors import UserError
from vitjax.evals import Evaluator, features
from vitjax.vectors import normalised

BANK_ROWS = 8192  # of training features on the device at a time
QUERY_ROWS = 1024  # of queries a device that are compared with them at a time
QUERY_NUMBERS = 2**28  # held on the devices (1 GiB); more queries take further passes over the bank
GROUP = 32


def make(config: Any, run: Any) -> Evaluator:
    """The evaluator 'knn': accuracy on config.eval_split with config.train_split as the bank.

    Raises:
      UserError: a field that the data set does not have; k or the temperature out of range.
    """
    fields = features.chosen_fields(config, run)
    k, temperature = config.k, config.temperature
    train_split, eval_split = config.train_split, config.eval_split
    train_examples, eval_examples = config.train_examples, config.eval_examples
    _check(k, temperature, train_examples or k)

    def evaluate(extract: features.Extract, mesh: Mesh) -> dict[str, float]:
        train = extract("features", train_split, train_examples, fields)
        features.check_classes(train.labels, config.name, train_split)
        _check(k, temperature, train.n)
        test = extract("features", eval_split, eval_examples, fields)
        cosines, rows = nearest(train.x, test.x, k, mesh, extract.tell)
        correct = {
            field: vote(cosines, train.labels[field][rows], temperature) == test.labels[field]
            for field in fields
        }
        return features.summary(correct, test)

    return Evaluator(("features",), (train_split, eval_split), evaluate)


def knn(
    train_x: Float[np.ndarray, "n D"],
    train_y: Int[np.ndarray, " n"],
    test_x: Float[np.ndarray, "m D"],
    test_y: Int[np.ndarray, " m"] | None = None,
    k: int = 20,
    temperature: float = 0.07,
) -> Int[np.ndarray, " m"] | float:
    """The accuracy on the test features, or the predicted classes where `test_y` is left out.

        predicted = vitjax.knn(model.features(train), labels, model.features(pictures))

    Features need no scaling: they are compared by cosine. Of equally near pictures the one with the lower
    row counts; of classes with equal scores the lower one wins. Labels may be numbers or names.

    Raises:
      UserError: k is larger than the number of training pictures, or features and labels do not go together.
    """
    features.check_rows(train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)
    classes, codes = np.unique(train_y, return_inverse=True)
    predicted = classes[classify(train_x, codes, test_x, k=k, temperature=temperature)]
    return predicted if test_y is None else float(np.mean(predicted == np.asarray(test_y)))


def classify(
    train_x: Float[np.ndarray, "n D"],
    train_y: Int[np.ndarray, " n"],
    test_x: Float[np.ndarray, "m D"],
    *,
    k: int,
    temperature: float,
    mesh: Mesh | None = None,
) -> Int[np.ndarray, " m"]:
    """The class of each test row; see `knn`."""
    _check(k, temperature, len(train_x))
    cosines, rows = nearest(np.asarray(train_x), np.asarray(test_x), k, features.mesh_or_all(mesh))
    return vote(cosines, np.asarray(train_y)[rows], temperature)


def nearest(
    bank: Float[np.ndarray, "n D"],
    queries: Float[np.ndarray, "m D"],
    k: int,
    mesh: Mesh,
    tell: features.Tell = features.silent,
) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"]]:
    """Cosines and bank rows of the k nearest of each query, nearest first; ties go to the lower row.

    Args:
      tell: called for each block of the bank.
    """
    width = queries.shape[1]
    per_pass = max(QUERY_ROWS, QUERY_NUMBERS // width) * mesh.devices.size
    starts = range(0, len(queries), per_pass)
    parts = [_nearest(bank, queries[i : i + per_pass], k, mesh, tell) for i in starts]
    return tuple(np.concatenate(x) for x in zip(*parts))


def vote(
    cosines: Float[np.ndarray, "m k"], labels: Int[np.ndarray, "m k"], temperature: float
) -> Int[np.ndarray, " m"]:
    """The class with the highest score for each row; of equals the lower class."""
    classes = int(labels.max()) + 1
    step = max(1, 2**24 // classes)  # scores alive at a time
    return np.concatenate(
        [
            scores(cosines[i : i + step], labels[i : i + step], temperature, classes).argmax(-1)
            for i in range(0, len(cosines), step)
        ]
    )


def scores(
    cosines: Float[np.ndarray, "m k"], labels: Int[np.ndarray, "m k"], temperature: float, classes: int
) -> Float[np.ndarray, "m K"]:
    """Each class's share of the neighbours' weights exp(cos / temperature)."""
    logits = np.asarray(cosines, np.float64) / temperature
    weights = np.exp(logits - logits.max(-1, keepdims=True))  # a small temperature would overflow
    weights /= weights.sum(-1, keepdims=True)
    cells = np.arange(len(labels))[:, None] * classes + labels
    return np.bincount(cells.ravel(), weights.ravel(), len(labels) * classes).reshape(-1, classes)


def _nearest(
    bank: np.ndarray, queries: np.ndarray, k: int, mesh: Mesh, tell: features.Tell
) -> tuple[np.ndarray, np.ndarray]:
    everywhere = NamedSharding(mesh, P())
    tiles = features.tiled(np.asarray(queries, np.float32), mesh, QUERY_ROWS)
    split = NamedSharding(mesh, P(None, mesh.axis_names))
    empty = jax.jit(
        lambda: (
            jnp.full((*tiles.shape[:2], k), -jnp.inf, jnp.float32),
            jnp.zeros((*tiles.shape[:2], k), jnp.int32),
        ),
        out_shardings=(split, split),
    )
    best = empty()
    size = min(BANK_ROWS, -(-len(bank) // GROUP) * GROUP)
    for start in range(0, len(bank), size):
        rows = bank[start : start + size]
        block = np.zeros((size, bank.shape[1]), np.float32)
        block[: len(rows)] = rows
        block = jax.device_put(block, everywhere)
        tell(f"comparing with the training pictures from {start:,} of {len(bank):,}")
        jax.block_until_ready(best)  # or the host would run ahead and put the whole bank on the device
        best = _merge(best, tiles, block, start, len(rows), mesh)
    found = jax.jit(lambda x: x, out_shardings=everywhere)(best)
    return tuple(np.asarray(x).reshape(-1, k)[: len(queries)] for x in found)


@functools.partial(jax.jit, static_argnames="mesh", donate_argnames="best")
def _merge(best, tiles: Float[Array, "T R D"], block: Float[Array, "M D"], start, rows, mesh: Mesh):
    """The running top k of every tile of queries, with one more block of the bank seen."""

    def local(best, tiles, block, start, rows):
        in_bank = jnp.arange(block.shape[0]) < rows
        search = functools.partial(_search, block=normalised(block), in_bank=in_bank, start=start)
        return jax.lax.map(search, (best, tiles))

    # By hand, as the compiler would gather the cosines of all devices on each for the top k.
    split, whole = P(None, mesh.axis_names), P()
    specs = dict(in_specs=(split, split, whole, whole, whole), out_specs=split, check_vma=False)
    return jax.shard_map(local, mesh=mesh, **specs)(best, tiles, block, start, rows)


def _search(best_and_queries, block: Float[Array, "M D"], in_bank: Bool[Array, " M"], start: Int[Array, ""]):
    """The running top k of one tile, with the cosines to the rows of `block` that are `in_bank`."""
    (cosines, indices), queries = best_and_queries
    # Full precision: an accelerator's default would reorder neighbours.
    new = jnp.matmul(normalised(queries), block.T, precision=jax.lax.Precision.HIGHEST)
    new, columns = _top_k(jnp.where(in_bank, new, -jnp.inf), cosines.shape[-1])
    # Rows seen earlier are lower and stand first, and top_k keeps the first of equals.
    cosines, chosen = jax.lax.top_k(jnp.concatenate([cosines, new], -1), cosines.shape[-1])
    indices = jnp.concatenate([indices, start + columns], -1)
    return cosines, jnp.take_along_axis(indices, chosen, -1)


def _top_k(x: Float[Array, "R M"], k: int) -> tuple[Float[Array, "R k"], Int[Array, "R k"]]:
    """`jax.lax.top_k` with less to sort where k is far below M (half the time on a CPU).

    Only the k groups of columns with the largest maxima are looked into: no other can hold one of the k
    largest. Groups are runs of columns, looked into from left to right, so that of equals still the first
    is kept.
    """
    rows, columns = x.shape
    if columns <= k * GROUP:
        values, indices = jax.lax.top_k(x, min(k, columns))
        return values, indices
    groups = x.reshape(rows, columns // GROUP, GROUP)
    chosen = jnp.sort(jax.lax.top_k(groups.max(-1), k)[1], -1)
    candidates = jnp.take_along_axis(groups, chosen[..., None], 1).reshape(rows, -1)
    values, place = jax.lax.top_k(candidates, k)
    group = jnp.take_along_axis(chosen, place // GROUP, -1)
    return values, group * GROUP + place % GROUP


def _check(k: int, temperature: float, n: int) -> None:
    if not 1 <= k <= n:
        raise UserError(
            f"config.evals.knn.k={k} must lie between 1 and the {n} training pictures; try {min(20, n)}"
        )
    if temperature <= 0:
        raise UserError(f"config.evals.knn.temperature={temperature} must be above 0; try 0.07")
