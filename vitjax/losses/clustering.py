"""Clusters as targets: the codes of one view, predicted from the others."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vitjax.losses.embeddings import EXCLUDED, Valid, counted, mean_of, products, which_count


def sinkhorn(
    scores: Float[Array, "B K"], temperature: float = 0.05, iterations: int = 3, *, valid: Valid = None
) -> Float[Array, "B K"]:
    """Codes: for each picture a distribution over prototypes, such that the batch uses all prototypes alike.

    That is exp(scores / temperature) with rows and columns scaled in turn. Rows sum to 1; columns are nearly equal, as
    the last step is the rows'. Float32, without gradient; rows that do not count are zeros. It works on logarithms:
    exponentials of scores over 0.05 would leave a picture or a prototype that is far from all others with a sum of 0.

    Args:
      iterations: at least 1.

    Source: Caron et al. 2020, section 3.1 and listing 1.
    """
    valid = which_count(scores, valid)
    logits = counted(jax.lax.stop_gradient(scores), valid) / temperature
    rows = jnp.zeros((scores.shape[0], 1))
    for _ in range(iterations):
        columns = -jax.nn.logsumexp(jnp.where(valid[:, None], logits + rows, EXCLUDED), axis=0)
        rows = -jax.nn.logsumexp(logits + columns, axis=1, keepdims=True)
    return counted(jnp.exp(logits + columns + rows), valid)


def swapped_prediction(
    scores: Float[Array, "B V K"],
    codes: Float[Array, "B A K"],
    temperature: float = 0.1,
    *,
    valid: Valid = None,
) -> Float[Array, ""]:
    """Cross-entropy of the codes of a view with softmax(scores / temperature) of every other view, averaged.

    Codes are of the first A views, the global crops, and get no gradient. Chance is ln K.

    Source: Caron et al. 2020, equation 6; averaged over pairs of views, as facebookresearch/swav main_swav.py does.
    """
    valid = which_count(scores, valid)
    log_p = jax.nn.log_softmax(counted(scores, valid) / temperature)
    return across_views(log_p, counted(jax.lax.stop_gradient(codes), valid), valid)


def across_views(
    log_p: Float[Array, "B V K"], targets: Float[Array, "B A K"], valid: Bool[Array, " B"]
) -> Float[Array, ""]:
    """Mean of -sum_k target log p over pictures that count and pairs of a target and another view.

    Target a is of view a; that pair is left out, so there must be two views at least.
    """
    pairs = -products("bvk,bak->bav", log_p, targets)
    other = 1.0 - jnp.eye(targets.shape[1], log_p.shape[1])
    return mean_of(jnp.sum(pairs * other, axis=(1, 2)), valid) / jnp.sum(other)
