"""One view's embedding regressed on the other's, as unit vectors.

Nothing but the predictor and the stopped gradient keeps these losses from their trivial minimum, all embeddings equal.
Stop the target's gradient before it comes here. Each function is one direction: BYOL adds two of `unit_regression`
(0 to 8), SimSiam averages two of `negative_cosine`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.losses.embeddings import Valid, counted, mean_of, which_count
from vitjax.vectors import normalised


def unit_regression(
    p: Float[Array, "B E"], target: Float[Array, "B E"], *, valid: Valid = None
) -> Float[Array, ""]:
    """Mean squared distance of the two unit vectors, 2 - 2 cos: 0 to 4.

    Source: Grill et al. 2020, equation 2.
    """
    valid = which_count(p, valid)
    return mean_of(2.0 - 2.0 * _cosines(counted(p, valid), counted(target, valid)), valid)


def negative_cosine(
    p: Float[Array, "B E"], target: Float[Array, "B E"], *, valid: Valid = None
) -> Float[Array, ""]:
    """Minus the mean cosine: -1 to 1.

    Source: Chen and He 2021, equation 1.
    """
    valid = which_count(p, valid)
    return -mean_of(_cosines(counted(p, valid), counted(target, valid)), valid)


def _cosines(a: Float[Array, "B E"], b: Float[Array, "B E"]) -> Float[Array, " B"]:
    return jnp.sum(normalised(a) * normalised(b), axis=1)
