"""Losses on classes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def softmax_cross_entropy(logits: Float[Array, "B K"], labels: Int[Array, " B"]) -> Float[Array, " B"]:
    """-log p(label) in nats for each example, in float32.

    A label of K or more gives NaN, one of -1 counts as the last class: mask such examples with `where`, as
    NaN * 0 is NaN.
    """
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen
