"""Numbers that say whether a network is learning something: the health panel.

Every one is a number in nats or without a unit, made of detached arrays, and none changes what is trained. The
cheap ones are computed in every step. The effective rank needs singular values, which would cost an accelerator a
tenth of a step: it is computed every EVERY_STEPS steps, inside a branch that the other steps pass over, and is 0
where it was not.

An objective logs what it has: `panel` of the embeddings of two views, `assignments` of codes or of a teacher's
probabilities, `agreement` of teacher and student. Features, if it gives any, are watched for it.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vitjax.vectors import normalised

Metrics = dict[str, Float[Array, ""]]

PREFIX = "health/"
RANKME = f"{PREFIX}rankme"  # 0 in steps that did not compute it
EVERY_STEPS = 100
ROWS = 256  # what pairs and singular values are taken of: their cost grows with the square


def of_features(features: Float[Array, "B D"], step: Int[Array, ""]) -> Metrics:
    """Spread and, every EVERY_STEPS steps, effective rank.

    Args:
      step: the steps done before this one.
    """
    features = jax.lax.stop_gradient(features)
    rank = jax.lax.cond(is_due(step + 1), rankme, lambda x: jnp.zeros(()), features)
    return {f"{PREFIX}feature_std": spread(features), RANKME: rank}


def is_due(step: Int[Array, ""] | int) -> Bool[Array, ""] | bool:
    """Whether step number `step`, the first one being 1, computes what is computed now and then."""
    return (step == 1) | (step % EVERY_STEPS == 0)


def panel(first: Float[Array, "B E"], second: Float[Array, "B E"]) -> Metrics:
    """Spread, alignment and uniformity of what one network makes of two views of the same pictures."""
    views = [_rows(x) for x in (first, second)]
    return {
        f"{PREFIX}embedding_std": (spread(first) + spread(second)) / 2,
        f"{PREFIX}alignment": alignment(*views),
        f"{PREFIX}uniformity": sum(map(uniformity, views)) / 2,
    }


def assignments(codes: Float[Array, "B K"]) -> Metrics:
    """How sure the codes are and how many prototypes they use, each as a share of ln K.

    A picture's own code: 0 is one prototype, 1 is all alike. Their mean over the pictures: 0 is the collapse to one
    prototype, 1 is that all are used equally; it can be no more than ln B / ln K.
    """
    codes = jax.lax.stop_gradient(codes).astype(jnp.float32)
    most = math.log(codes.shape[-1])
    return {
        f"{PREFIX}assignment_entropy": jnp.mean(entropy(codes)) / most,
        f"{PREFIX}prototype_entropy": entropy(jnp.mean(codes, axis=0)) / most,
    }


def spread(x: Float[Array, "B D"]) -> Float[Array, ""]:
    """Spread of unit vectors: about 1 when they fill the sphere, 0 when all pictures look alike.

    The standard deviation of an entry, averaged over the entries, times sqrt(D). A random network's features all
    point in nearly one direction, so that a small number early on is no collapse; a fall is.
    """
    x = _unit(x)
    return jnp.mean(jnp.std(x, axis=0)) * math.sqrt(x.shape[-1])


def rankme(features: Float[Array, "B D"]) -> Float[Array, ""]:
    """Effective rank, exp of the entropy of the singular values' shares: between 1 and min(B, D).

    Of the first ROWS pictures: comparable within a run, and too small beside ranks of whole data sets. Singular
    values of the features themselves, since those of a float32 Gram matrix drown in rounding below a thousandth of the
    largest.

    Source: Garrido et al. 2023, RankMe, equation 1.
    """
    x = _rows(features).astype(jnp.float32)
    if x.shape[0] < x.shape[1]:
        x = jnp.linalg.qr(x.T, mode="r")  # the same singular values in a smaller matrix
    values = jnp.linalg.svd(x, compute_uv=False)
    return jnp.exp(entropy(values / jnp.maximum(jnp.sum(values), 1e-12)))


def alignment(first: Float[Array, "B E"], second: Float[Array, "B E"]) -> Float[Array, ""]:
    """Mean squared distance of the unit embeddings of two views: 0 is perfect, 2 is no relation.

    Source: Wang and Isola 2020, Understanding contrastive representation learning, section 4.1 with alpha = 2.
    """
    return 2 - 2 * agreement(first, second)


def uniformity(x: Float[Array, "B E"]) -> Float[Array, ""]:
    """ln of the mean of exp(-2 d^2) over pairs of different pictures: 0 when all are alike, below -3 when spread well.

    Source: Wang and Isola 2020, section 4.1 with t = 2.
    """
    x = _unit(x)
    others = ~jnp.eye(x.shape[0], dtype=bool)
    squared = 2 - 2 * x @ x.T
    pairs = x.shape[0] * (x.shape[0] - 1)
    return jax.nn.logsumexp(-2 * squared, where=others) - math.log(max(pairs, 1))


def agreement(teacher: Float[Array, "B E"], student: Float[Array, "B E"]) -> Float[Array, ""]:
    """Mean cosine between what teacher and student say of the same pictures."""
    return jnp.mean(jnp.sum(_unit(teacher) * _unit(student), axis=-1))


def entropy(p: Float[Array, "... K"]) -> Float[Array, "..."]:
    """Entropy in nats along the last axis; what has no probability counts for nothing."""
    return -jnp.sum(jax.scipy.special.xlogy(p, p), axis=-1)


def _unit(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    return normalised(jax.lax.stop_gradient(x))


def _rows(x: Float[Array, "B D"]) -> Float[Array, "b D"]:
    """The first of the pictures, which are in no order."""
    return jax.lax.stop_gradient(x)[:ROWS]
