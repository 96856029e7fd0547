"""The gradient of a loss over the global batch, at once, or piece by piece where memory is short.

Two kinds of pieces. `accumulated` is for a loss that is a mean over pictures: the mean of the micro-batches'
gradients, weighted by how many terms each averaged, is the gradient of the whole. `of_embeddings` is for a loss that
compares the pictures of a batch with each other: it needs the embeddings of all of them, but not at the same time
what the network computed on the way there. So the network runs twice over chunks of the batch, first for the
embeddings alone, and then, once the gradient in these is known, to carry it back.

Source: Gao et al. 2021, Scaling deep contrastive learning batch size under memory limited setup.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax import sharding
from vitjax.errors import UserError

Tree = Any
Batch = Mapping[str, Array]
Metrics = dict[str, Float[Array, ""]]
# (params, extra, batch, key, step) -> (gradients, extra, metrics, features or None)
Gradient = Callable[..., tuple[Tree, Tree, Metrics]]

PICTURES = ("image", "size")  # what a loss of embeddings is not shown


class Output(NamedTuple):
    """What a loss says beside its value.

    Attributes:
      extra: the collections after this batch (batch statistics, queue).
      metrics: scalars to log, each a mean over the same terms as the loss.
      weight: how many terms the loss averaged (masked tokens, valid pictures), so that micro-batches
        combine to the mean over all terms; 0 where there was none.
      features: [B, D] of the pictures in the order of the batch, of one view where there are several; detached, and
        watched: by the health panel and the online probe.
      chance: the loss in nats at which nothing is learned.
    """

    extra: Tree
    metrics: Metrics = {}
    weight: Float[Array, ""] | float = 1.0
    features: Float[Array, "B D"] | None = None
    chance: float | None = None


def accumulated(loss: Callable, views: Callable | None, accum: int) -> Gradient:
    """The gradient of the mean over all terms of `accum` micro-batches.

    Args:
      loss: (params, extra, batch, key, step) -> (scalar, Output).
      views: (batch, key) -> batch, or None.
    """

    def one(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array):
        key_views, key_loss = jax.random.split(key)
        batch = batch if views is None else views(batch, key_views)
        (value, out), grads = jax.value_and_grad(loss, has_aux=True)(params, extra, batch, key_loss, step)
        return (grads, out.extra, _metrics(value, out), _watched(out)), jnp.float32(out.weight)

    if accum == 1:
        return lambda *args: one(*args)[0]

    def many(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array):
        whole = parts(batch, accum, f"config.accum={accum}")

        def body(carry, i):
            sums, extra, weights = carry
            (grads, extra, metrics, features), weight = one(params, extra, part(whole, i), key, step)
            sums = jax.tree.map(lambda total, x: total + weight * x, sums, (grads, metrics))
            return ((sharding.constrain(sums[0], "params"), sums[1]), extra, weights + weight), features

        shapes, _ = jax.eval_shape(lambda: one(params, extra, part(whole, 0), key, step))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[2]))
        (sums, extra, weights), features = jax.lax.scan(body, (zeros, extra, jnp.zeros(())), jnp.arange(accum))
        # Without a single term the mean is 0, as it is for a whole batch.
        grads, metrics = jax.tree.map(lambda x: x / jnp.where(weights > 0, weights, 1.0), sums)
        return grads, extra, metrics, jax.tree.map(joined, features)

    return many


def of_embeddings(embed: Callable, loss: Callable, views: Callable | None, chunks: int) -> Gradient:
    """The gradient of a loss of the embeddings of the whole batch, of which `chunks` pieces are embedded in turn.

    Exactly that of the batch in one piece, but for batch norm, whose statistics are then those of a chunk. What
    `embed` changes in `extra` (batch statistics) goes from chunk to chunk; its result must not depend on these
    changes, since the second pass begins with what the first one began with.

    Args:
      embed: (params, extra, batch, key, step) -> (embedded, extra), embedded a tree of arrays of floats [B, ...], a
        row for each picture. A teacher embeds here too.
      loss: (params, extra, embedded, batch, key, step) -> (scalar, Output), of a batch without its pictures.
      views: (batch, key) -> batch, or None; the views of one chunk are alive at a time.
    """

    def gradient(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array):
        key_views, key_embed, key_loss = jax.random.split(key, 3)
        whole = parts(batch, chunks, f"config.embed_chunks={chunks}")

        def embed_chunk(params: Tree, extra: Tree, i: Int[Array, ""] | int) -> tuple[Tree, Tree]:
            chunk = part(whole, i)
            return embed(params, extra, chunk if views is None else views(chunk, key_views), key_embed, step)

        def of_loss(params: Tree, embedded: Tree, extra: Tree) -> tuple[Array, Output]:
            rest = {name: x for name, x in batch.items() if name not in PICTURES}
            return loss(params, extra, embedded, rest, key_loss, step)

        if chunks == 1:

            def at_once(params: Tree) -> tuple[Array, Output]:
                return of_loss(params, *embed_chunk(params, extra, 0))

            (value, out), grads = jax.value_and_grad(at_once, has_aux=True)(params)
            return grads, out.extra, _metrics(value, out), _watched(out)

        def forward(carried: Tree, i: Int[Array, ""]) -> tuple[Tree, Tree]:
            embedded, carried = embed_chunk(params, carried, i)
            return carried, embedded

        after, embedded = jax.lax.scan(forward, extra, jnp.arange(chunks))
        loss_and_grads = jax.value_and_grad(of_loss, argnums=(0, 1), has_aux=True)
        (value, out), (grads, in_embedded) = loss_and_grads(params, jax.tree.map(joined, embedded), after)
        in_embedded = parts(in_embedded, chunks, "")

        def backward(sums: Tree, i: Int[Array, ""]) -> tuple[Tree, None]:
            _, pull_back = jax.vjp(lambda params: embed_chunk(params, extra, i)[0], params)
            sums = jax.tree.map(jnp.add, sums, pull_back(part(in_embedded, i))[0])
            return sharding.constrain(sums, "params"), None

        grads, _ = jax.lax.scan(backward, grads, jnp.arange(chunks))
        return grads, out.extra, _metrics(value, out), _watched(out)

    return gradient


def parts(batch: Tree, count: int, why: str) -> Tree:
    """The batch, a tree of arrays [B, ...], as [B / count, count, ...].

    Part i holds rows i, i + count, ...: rows that lie on one device stay there, which contiguous parts of
    a sharded batch would not.

    Raises:
      UserError: the batch does not divide; `why` says what asks for it.
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % count:
        raise UserError(f"config.batch_size={size} must be a multiple of {count} ({why})")
    return jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]), batch)


def part(whole: Tree, i: Int[Array, ""] | int) -> Tree:
    """Part i of `parts`: all of them stacked for scan to go through would be a second copy of the batch."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 1, keepdims=False), whole)


def joined(x: Float[Array, "count b ..."]) -> Float[Array, "B ..."]:
    """The rows of all parts, stacked by scan, in the order of the batch that `parts` cut."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def _metrics(value: Float[Array, ""], out: Output) -> Metrics:
    """What every loss logs, beside its own."""
    metrics = {"loss": value, **out.metrics}
    if out.chance is not None:
        metrics["chance"] = jnp.float32(out.chance)
    return metrics


def _watched(out: Output) -> Float[Array, "B D"] | None:
    """The features, behind a barrier: whoever looks at them cannot change how the compiler rounds the network."""
    if out.features is None:
        return None
    return jax.lax.optimization_barrier(jax.lax.stop_gradient(out.features))
