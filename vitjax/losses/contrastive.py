"""Losses that tell the other view of a picture from all other pictures.

All are means over anchors, in nats, of the global batch: papers and their code differ from this by factors that shift
the learning rate. Google's SimCLR adds the means of its two views' anchors (twice `nt_xent`), MoCo v3 adds both
directions of `info_nce`, each times twice the temperature.

With `chunks` the similarity matrix is never whole: B / chunks of its rows exist at a time, and are made a second time
in the backward pass. A row's softmax is complete within its block, so that value and gradient are those of the whole.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vitjax.losses.embeddings import (
    EXCLUDED,
    Valid,
    counted,
    in_blocks,
    mean_of,
    products,
    which_count,
)
from vitjax.vectors import normalised

Temperature = Float[Array, ""] | float


def nt_xent(
    z1: Float[Array, "B E"],
    z2: Float[Array, "B E"],
    temperature: Temperature,
    *,
    valid: Valid = None,
    chunks: int = 1,
) -> Float[Array, ""]:
    """-log p(other view of the same picture) among all views but the anchor's own; the mean over 2B anchors.

    Normalises the embeddings. Chance, and complete collapse, is ln(2B - 1).

    Raises:
      UserError: `chunks` does not divide the batch.
    Source: Chen et al. 2020, equation 1; half of google-research/simclr objective.py.
    """
    valid = which_count(z1, valid)
    z1, z2 = (normalised(counted(z, valid)) for z in (z1, z2))
    first = _among_both_views(z1, z2, temperature, valid, chunks)
    second = _among_both_views(z2, z1, temperature, valid, chunks)
    return (mean_of(first, valid) + mean_of(second, valid)) / 2


def _among_both_views(
    own: Float[Array, "B E"],
    other: Float[Array, "B E"],
    temperature: Temperature,
    valid: Bool[Array, " B"],
    chunks: int,
) -> Float[Array, " B"]:
    """The loss of each anchor in `own`, whose positive is the same row of `other`."""
    index = jnp.arange(own.shape[0])

    def of_rows(block: tuple[Float[Array, "b E"], Int[Array, " b"]]) -> Float[Array, " b"]:
        anchors, rows = block
        itself = rows[:, None] == index
        to_own = products("ae,be->ab", anchors, own) / temperature
        to_other = products("ae,be->ab", anchors, other) / temperature
        positive = jnp.sum(jnp.where(itself, to_other, 0.0), axis=1)
        to_own = jnp.where(valid & ~itself, to_own, EXCLUDED)
        to_other = jnp.where(valid, to_other, EXCLUDED)
        return jnp.logaddexp(_logsumexp(to_own), _logsumexp(to_other)) - positive

    return in_blocks(of_rows, (own, index), chunks)


def info_nce(
    q: Float[Array, "B E"],
    k: Float[Array, "B E"],
    temperature: Temperature,
    *,
    valid: Valid = None,
    queue: Float[Array, "Q E"] | None = None,
    chunks: int = 1,
) -> Float[Array, ""]:
    """-log p(key of the same picture) among all keys; the mean over queries. Chance is ln(B + Q).

    Normalises queries, keys and queue. The gradient flows to the keys too: stop it where they are a teacher's.

    Args:
      queue: keys of earlier batches, negatives of every query; they get no gradient. It must be full: a row of zeros
        is a negative at right angles to everything.

    Raises:
      UserError: `chunks` does not divide the batch.
    Source: van den Oord et al. 2018, equation 4; the queue: He et al. 2020, equation 1.
    """
    valid = which_count(q, valid)
    q, k = (normalised(counted(x, valid)) for x in (q, k))
    more = None if queue is None else normalised(jax.lax.stop_gradient(queue))
    losses = softmax_contrast(q, k, 1.0 / temperature, valid, queue=more, chunks=chunks)
    return mean_of(losses, valid)


def info_nce_two_sided(
    q: Float[Array, "B E"],
    k: Float[Array, "B E"],
    temperature: Temperature,
    *,
    valid: Valid = None,
    chunks: int = 1,
) -> Float[Array, ""]:
    """The mean of `info_nce` from queries to keys and from keys to queries. Chance is ln B."""
    there = info_nce(q, k, temperature, valid=valid, chunks=chunks)
    back = info_nce(k, q, temperature, valid=valid, chunks=chunks)
    return (there + back) / 2


def softmax_contrast(
    q: Float[Array, "B E"],
    k: Float[Array, "B E"],
    scale: Temperature,
    valid: Bool[Array, " B"],
    *,
    same: Int[Array, " B"] | None = None,
    queue: Float[Array, "Q E"] | None = None,
    chunks: int = 1,
) -> Float[Array, " B"]:
    """Cross-entropy of each query with its positives, among all keys; of unit vectors, logits scale * cosine.

    Args:
      same: a query's positives are the keys with its number, with equal shares of the target; without it, the key of
        its own row.
    """
    same = jnp.arange(q.shape[0]) if same is None else same

    def of_rows(block: tuple[Float[Array, "b E"], Int[Array, " b"]]) -> Float[Array, " b"]:
        queries, numbers = block
        logits = products("ae,be->ab", queries, k)
        is_positive = valid & (numbers[:, None] == same)
        count = jnp.maximum(jnp.sum(is_positive, axis=1), 1)
        positive = jnp.sum(jnp.where(is_positive, logits, 0.0), axis=1) / count
        total = _logsumexp(jnp.where(valid, logits, EXCLUDED))
        if queue is not None:
            total = jnp.logaddexp(total, _logsumexp(products("ae,qe->aq", queries, queue)))
        return total - positive

    return in_blocks(of_rows, (q * scale, same), chunks)


def margin_contrastive(
    x1: Float[Array, "B E"],
    x2: Float[Array, "B E"],
    same: Bool[Array, " B"],
    margin: float,
    *,
    valid: Valid = None,
) -> Float[Array, ""]:
    """Half the squared distance of pairs that are the same, half that of the others' shortfall from `margin`.

    Does not normalise: a margin suits embeddings of one scale. The label is 1 for the same, where the paper has 0;
    many libraries leave out the halves.

    Source: Hadsell et al. 2006, equation 4.
    """
    valid = which_count(x1, valid)
    square = jnp.sum(jnp.square(counted(x1, valid) - counted(x2, valid)), axis=1)
    # The slope of a root at 0 is infinite, and two embeddings that should differ may be equal.
    distance = jnp.sqrt(jnp.maximum(square, 1e-12))
    losses = jnp.where(same, square, jnp.square(jnp.maximum(margin - distance, 0.0))) / 2
    return mean_of(losses, valid)


def _logsumexp(logits: Float[Array, "b N"]) -> Float[Array, " b"]:
    return jax.nn.logsumexp(logits, axis=1)
