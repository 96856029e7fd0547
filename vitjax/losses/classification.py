"""Losses on classes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def softmax_cross_entropy(logits: Float[Array, "B K"], labels: Int[Array, " B"]) -> Float[Array, " B"]:
    """-log p(label) in nats for each example, in float32.

    A label outside 0..K-1 takes a wrong class without an error: jax clips indices. Mask such examples.
    """
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen
