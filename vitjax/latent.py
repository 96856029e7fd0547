"""What a generator starts from: latents and classes, each a function of its row's key, and ways between latents."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from vitjax import augment
from vitjax.errors import UserError

# Apart from the augmentations' numbers, which fold into the same row keys.
LATENT, CLASS = 120, 121


def draw(
    key: Key[Array, ""], rows: Int[Array, " B"], z_dim: int, truncation: float = 0.0
) -> Float[Array, "B Z"]:
    """A normal latent for each row; with a truncation, of a normal whose values lie within -truncation..truncation.

    The smaller the truncation, the better and the more alike are the pictures.

    Source: Brock et al., 2019, Large scale GAN training, section 3.1.
    """

    def one(key: Key[Array, ""]) -> Float[Array, " Z"]:
        key = jax.random.fold_in(key, LATENT)
        if truncation:
            return jax.random.truncated_normal(key, -truncation, truncation, (z_dim,))
        return jax.random.normal(key, (z_dim,))

    return jax.vmap(one)(augment.row_keys(key, rows))


def draw_classes(key: Key[Array, ""], rows: Int[Array, " B"], num_classes: int) -> Int[Array, " B"]:
    """A class for each row, all equally likely."""

    def one(key: Key[Array, ""]) -> Int[Array, ""]:
        return jax.random.randint(jax.random.fold_in(key, CLASS), (), 0, num_classes)

    return jax.vmap(one)(augment.row_keys(key, rows))


def between(
    a: Float[Array, "... Z"], b: Float[Array, "... Z"], at: Float[Array, "..."]
) -> Float[Array, "... Z"]:
    """The latent at 0 (a) to 1 (b) of the way on the great circle through both.

    A straight line would pass through lengths that a normal of many dimensions practically never has.
    """
    at = at[..., None]
    length_a, length_b = (jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    cosine = jnp.sum(a * b, -1, keepdims=True) / (length_a * length_b)
    angle = jnp.arccos(jnp.clip(cosine, -1 + 1e-6, 1 - 1e-6))
    direction = (jnp.sin((1 - at) * angle) * a / length_a + jnp.sin(at * angle) * b / length_b) / jnp.sin(
        angle
    )
    return direction * ((1 - at) * length_a + at * length_b)


def checked_truncation(value: float, setting: str = "config.objective.truncation") -> float:
    """A truncation, that of `setting`.

    Raises:
      UserError: it is below 0 or no number.
    """
    if not 0 <= value < math.inf:
        raise UserError(f"{setting}={value} must be 0 (no truncation) or above; 0.5 gives few but good pictures")
    return value
