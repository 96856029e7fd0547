"""Losses on the statistics of embeddings over the batch: no negatives, no teacher.

Covariances are of the global batch: divided by its size, not by that of what one device holds.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vitjax.losses.embeddings import Valid, counted, mean_of, products, which_count


def barlow_twins(
    z1: Float[Array, "B E"],
    z2: Float[Array, "B E"],
    off_diagonal: float = 0.0051,
    *,
    valid: Valid = None,
) -> Float[Array, ""]:
    """How far the correlations of the views' dimensions are from the identity, squared and summed.

    Each dimension is standardised over the batch with the biased variance plus 1e-5, as batch norm does it.

    Args:
      off_diagonal: weight of correlations between different dimensions.

    Source: Zbontar et al. 2021, equation 1; facebookresearch/barlowtwins main.py.
    """
    valid = which_count(z1, valid)
    a, b = (_standardised(z, valid) for z in (z1, z2))
    correlation = products("bi,bj->ij", a, b) / jnp.maximum(jnp.sum(valid), 1)
    diagonal = jnp.diagonal(correlation)
    return jnp.sum(jnp.square(diagonal - 1.0)) + off_diagonal * _off_diagonal_squares(correlation)


def vicreg(
    z1: Float[Array, "B E"],
    z2: Float[Array, "B E"],
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    *,
    halved: bool,
    valid: Valid = None,
) -> dict[str, Float[Array, ""]]:
    """The weighted sum as 'loss', and its terms before weighting as 'invariance', 'variance' and 'covariance'.

    Args:
      halved: the variance term is the mean of the two views', as in the authors' code, whose published weights are
        for that; else their sum, as in the paper, which amounts to twice the weight.

    Source: Bardes et al. 2022, equations 1 to 6; facebookresearch/vicreg main_vicreg.py.
    """
    valid = which_count(z1, valid)
    # An error averaged over pictures and dimensions, not the paper's sum over dimensions: so in the authors' code.
    distance = jnp.mean(mean_of(jnp.square(counted(z1, valid) - counted(z2, valid)), valid))
    a, b = (_centred(z, valid) for z in (z1, z2))
    spread = _lack_of_spread(a, valid) + _lack_of_spread(b, valid)
    terms = {
        "invariance": distance,
        "variance": spread / 2.0 if halved else spread,
        "covariance": _mean_covariance(a, valid) + _mean_covariance(b, valid),
    }
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
    return {"loss": sum(weights[name] * term for name, term in terms.items()), **terms}


def _centred(z: Float[Array, "B E"], valid: Bool[Array, " B"]) -> Float[Array, "B E"]:
    """`z` minus its mean over the rows that count, the others zeros."""
    z = counted(z, valid)
    return counted(z - mean_of(z, valid), valid)


def _standardised(z: Float[Array, "B E"], valid: Bool[Array, " B"]) -> Float[Array, "B E"]:
    z = _centred(z, valid)
    return z / jnp.sqrt(mean_of(jnp.square(z), valid) + 1e-5)


def _lack_of_spread(z: Float[Array, "B E"], valid: Bool[Array, " B"]) -> Float[Array, ""]:
    """How much the standard deviation of centred dimensions falls short of 1, on average."""
    unbiased = jnp.sum(jnp.square(z), axis=0) / _freedom(valid)
    return jnp.mean(jnp.maximum(1.0 - jnp.sqrt(unbiased + 1e-4), 0.0))


def _mean_covariance(z: Float[Array, "B E"], valid: Bool[Array, " B"]) -> Float[Array, ""]:
    """Squared covariances of different centred dimensions, summed, per dimension."""
    return _off_diagonal_squares(products("bi,bj->ij", z, z) / _freedom(valid)) / z.shape[1]


def _off_diagonal_squares(matrix: Float[Array, "E E"]) -> Float[Array, ""]:
    # A sum of all squares minus the diagonal's would lose the small ones beside the large.
    return jnp.sum(jnp.square(matrix) * (1.0 - jnp.eye(matrix.shape[0])))


def _freedom(valid: Bool[Array, " B"]) -> Float[Array, ""]:
    return jnp.maximum(jnp.sum(valid) - 1, 1)
