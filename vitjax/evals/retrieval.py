"""Retrieval between pictures and their captions, both ways: recall at 1, 5 and 10.

A picture's texts are all of its captions, and finding any of them counts. Captions whose tokens are equal are one text,
which is right for each picture that has it: nothing that a model sees tells them apart.

Ties count against the model: of what is wrong, whatever scores as high as the best of what is right stands before it.
So a model that says the same of all scores nothing, whatever the order of the data.

Rows of the matrix of similarities are worked on in blocks that are split over the devices; it never exists as a whole.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from vitjax.errors import UserError
from vitjax.evals import Evaluator, features

AT = (1, 5, 10)
SCORES = 2**25  # alive on a device at a time: 128 MiB
MOST_ROWS = 4096  # of a block, on a device


class Pairs(NamedTuple):
    """Which picture has which text, each pair once.

    Attributes:
      texts: the distinct ones.
      of_caption: the text that each caption is.
      pictures, matches: of pair p the picture and the text.
    """

    texts: Int[np.ndarray, "t L"]
    of_caption: Int[np.ndarray, " c"]
    pictures: Int[np.ndarray, " p"]
    matches: Int[np.ndarray, " p"]


def make(config: Any, run: Any) -> Evaluator:
    """The evaluator 'retrieval': '<way>/recall_at_<K>', ways being 'image_to_text' and 'text_to_image'.

    Beside them: 'n' pictures that have captions, 'n_texts' captions of which 'n_distinct' differ, 'n_without' pictures
    that have none and are left out, 'n_more' pictures with more captions than config.captions, of which the first ones
    count. Every caption is a query. `predict` must have 'image_embed', and 'text_embed' for a batch
    {'text': int32 [B, L], ...}; the similarity is their product.

    Raises:
      UserError: the data have no captions.
    """
    setting, slots = f"config.evals.{config.name}", config.captions
    eval_split, eval_examples = config.eval_split, config.eval_examples
    if slots < 1:
        raise UserError(f"{setting}.captions={slots} must be 1 or more; try 5")
    if "text" not in run.batch_spec:
        raise UserError(
            f"{setting}: retrieval needs captions; ask for them with --config.data.fields=\"('text',)\", or switch the "
            f"evaluator off with --{setting}.every_steps=-1"
        )

    def evaluate(extract: features.Extract, mesh: Mesh) -> dict[str, float]:
        # One slot more shows which pictures have more.
        found = extract.captioned("image_embed", eval_split, eval_examples, slots + 1)
        text, valid = found.labels["text"][:, :slots], found.labels["text_valid"][:, :slots]
        has = valid.any(1)
        if not has.any():
            raise UserError(f"{setting}: no picture of split {eval_split!r} has a caption")
        pairs = pairs_of(text[has], valid[has])
        x, y = found.x[has], extract.texts(pairs.texts)
        to_text = ranks(x, y, pairs.pictures, pairs.matches, mesh, extract.tell)
        to_image = ranks(y, x, pairs.matches, pairs.pictures, mesh, extract.tell)[pairs.of_caption]
        numbers = {f"image_to_text/recall_at_{k}": float(np.mean(to_text < k)) for k in AT}
        numbers |= {f"text_to_image/recall_at_{k}": float(np.mean(to_image < k)) for k in AT}
        n_more = int(found.labels["text_valid"][:, slots].sum())
        counts = {"n": len(x), "n_texts": len(to_image), "n_distinct": len(y), "n_bad": found.n_bad}
        return numbers | counts | {"n_without": int((~has).sum()), "n_more": n_more}

    return Evaluator(("image_embed", "text_embed"), (eval_split,), evaluate)


def pairs_of(text: Int[np.ndarray, "n C L"], valid: Bool[np.ndarray, "n C"]) -> Pairs:
    """The pairs of pictures and texts, of the captions that are `valid`."""
    texts, of_caption = np.unique(text[valid], axis=0, return_inverse=True)
    of_caption = of_caption.reshape(-1)
    both = np.unique(np.stack([np.nonzero(valid)[0], of_caption], 1), axis=0)
    return Pairs(texts, of_caption, both[:, 0], both[:, 1])


def ranks(
    queries: Float[np.ndarray, "q E"],
    gallery: Float[np.ndarray, "g E"],
    query_of: Int[np.ndarray, " p"],
    match_of: Int[np.ndarray, " p"],
    mesh: Mesh | None = None,
    tell: features.Tell = features.silent,
) -> Int[np.ndarray, " q"]:
    """How many wrong items score at least as high as the best right one, for each query: 0 is found at once.

    Args:
      query_of, match_of: item `match_of[p]` is right for query `query_of[p]`; each pair once, and every query has one.
      tell: called for each block of queries.
    """
    mesh = features.mesh_or_all(mesh)
    order = np.argsort(query_of, kind="stable")
    starts = np.searchsorted(query_of[order], np.arange(len(queries) + 1))
    matches = match_of[order]
    wide = np.zeros((len(gallery) + 1, gallery.shape[1]), np.float32)  # the last stands for 'none'
    wide[:-1] = gallery
    wide = jax.device_put(wide, NamedSharding(mesh, P()))
    size = _rows(len(queries), len(wide), mesh)
    found = []
    for start in range(0, len(queries), size):
        tell(f"comparing from {start:,} of {len(queries):,} with {len(gallery):,}")
        x = np.zeros((size, queries.shape[1]), np.float32)
        x[: len(queries) - start] = queries[start : start + size]
        right = _right(starts[start : start + size + 1], matches, size, len(gallery))
        block = _block_ranks(_split(x, mesh), wide, _split(right, mesh), mesh)
        found.append(np.asarray(block)[: len(queries) - start])
    return np.concatenate(found)


def _rows(queries: int, gallery: int, mesh: Mesh) -> int:
    """Queries of a block: as many on each device, as few as are needed, and a bounded number of scores."""
    devices = mesh.devices.size
    return devices * max(1, min(MOST_ROWS, SCORES // gallery, -(-queries // devices)))


def _right(starts: Int[np.ndarray, " r"], matches: Int[np.ndarray, " p"], size: int, none: int) -> np.ndarray:
    """The right items of each query of a block, int32 [size, P]; `none` where it has no more. Few P are compiled."""
    counts = np.diff(starts)
    widest = 1 << int(counts.max() - 1).bit_length()
    right = np.full((size, widest), none, np.int32)
    for row, (start, count) in enumerate(zip(starts[:-1], counts)):
        right[row, :count] = matches[start : start + count]
    return right


def _split(x: np.ndarray, mesh: Mesh) -> Array:
    """Rows split over all devices."""
    rows = NamedSharding(mesh, P(mesh.axis_names))
    return jax.make_array_from_callback(x.shape, rows, lambda index: x[index])


@functools.partial(jax.jit, static_argnames="mesh")
def _block_ranks(
    x: Float[Array, "R E"], gallery: Float[Array, "G E"], right: Int[Array, "R P"], mesh: Mesh
) -> Int[Array, " R"]:
    # Full precision: an accelerator's default would make ties of what is none, and the other way.
    scores = jnp.matmul(x, gallery.T, precision=jax.lax.Precision.HIGHEST)
    # Computed once: a score that is compared with itself must be the same number.
    scores = jax.lax.optimization_barrier(scores.at[:, -1].set(-jnp.inf))
    mine = jnp.take_along_axis(scores, right, 1)
    best = mine.max(1, keepdims=True)
    found = (scores >= best).sum(1) - (mine == best).sum(1)
    return jax.lax.with_sharding_constraint(found, NamedSharding(mesh, P()))
