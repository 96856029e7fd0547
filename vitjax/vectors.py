"""Vectors of length one."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MIN_SQUARE = 1e-24  # below it a vector has no direction: torch's 1e-12 for the norm


def normalised(x: Float[Array, "... E"], axis: int = -1) -> Float[Array, "... E"]:
    """`x` with length 1 along `axis`, in float32; a vector of zeros stays, with gradient 0."""
    x = jnp.asarray(x, jnp.float32)
    square = jnp.sum(jnp.square(x), axis, keepdims=True)
    has_direction = square > MIN_SQUARE
    # The inner choice keeps 1/0 out of the derivative, which the outer one alone would turn into NaN.
    return x * jnp.where(has_direction, jax.lax.rsqrt(jnp.where(has_direction, square, 1.0)), 0.0)
