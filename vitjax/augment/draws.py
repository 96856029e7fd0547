"""What is drawn for a picture: from its row's key, the view's number and the operation's number alone."""

import jax
from jaxtyping import Array, Bool, Float, Int, Key

# What a random operation folds into a key. A number is never used twice, nor given to another operation:
# runs in progress would draw something else. Those from 100 on belong to the objectives.
CROP, FLIP = 0, 1
JITTER, ORDER, BRIGHTNESS, CONTRAST, SATURATION, HUE = 2, 3, 4, 5, 6, 7
GREY, BLUR, SIGMA, SOLARISE = 8, 9, 10, 11
FIRST_VIEW, MOST_VIEWS = 20, 80  # the views of a picture have the numbers from 20 to 99


def row_keys(key: Key[Array, ""], rows: Int[Array, " B"]) -> Key[Array, " B"]:
    """A key for each row of the global batch."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def view_keys(keys: Key[Array, " B"], view: int | Int[Array, ""]) -> Key[Array, " B"]:
    """A key for each row and this view of it, counted from 0."""
    return _fold(keys, FIRST_VIEW + view)


def coin(keys: Key[Array, " B"], operation: int, probability: float) -> Bool[Array, " B"]:
    """For which pictures the operation is done."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, probability))(_fold(keys, operation))


def uniform(keys: Key[Array, " B"], operation: int, low: float, high: float) -> Float[Array, " B"]:
    """How much of the operation each picture gets."""
    return jax.vmap(lambda key: jax.random.uniform(key, minval=low, maxval=high))(_fold(keys, operation))


def order(keys: Key[Array, " B"], operation: int, length: int) -> Int[Array, "B length"]:
    """A random order of 0 to length - 1 for each picture."""
    return jax.vmap(lambda key: jax.random.permutation(key, length))(_fold(keys, operation))


def _fold(keys: Key[Array, " B"], number: int | Int[Array, ""]) -> Key[Array, " B"]:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
