"""What is drawn for a picture: from its row's key, the view's number and the operation's number alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

# What a random operation folds into a key. A number is never used twice, nor given to another operation:
# runs in progress would draw something else. Those from 100 on belong to the objectives.
CROP, FLIP = 0, 1
JITTER, BRIGHTNESS, CONTRAST, SATURATION, HUE = 2, 3, 4, 5, 6
GREY, BLUR, SIGMA, SOLARISE = 7, 8, 9, 10
ORDER = 11, 12, 13, 14  # the four adjustments of colours are sorted by these
COUNT = 15
FIRST_VIEW, MOST_VIEWS = 20, 80  # the views of a picture have the numbers from 20 to 99

Units = Float[Array, "15 B"]


def row_keys(key: Key[Array, ""], rows: Int[Array, " B"]) -> Key[Array, " B"]:
    """A key for each row of the global batch."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def view_keys(keys: Key[Array, " B"], views: Int[Array, " V"]) -> Key[Array, " B*V"]:
    """A key for each row and each of these views of it, counted from 0; those of a row follow each other.

    This is the order that keeps a batch whose rows lie on several devices where it is.
    """
    each, numbers = _pairs(keys, FIRST_VIEW + views)
    return jax.vmap(jax.random.fold_in)(each, numbers)


def units(keys: Key[Array, " B"]) -> Units:
    """For each operation a number in 0..1 for each picture.

    They are those that each operation would draw from the key with its own number. Drawn together and in one
    row they compile as one; a second axis alone makes the compiler take several times as long.
    """
    each, operations = _pairs(keys, jnp.arange(COUNT))
    drawn = jax.vmap(lambda key, operation: jax.random.uniform(jax.random.fold_in(key, operation)))
    return drawn(each, operations).reshape(-1, COUNT).T


def coin(units: Units, operation: int, probability: float) -> Bool[Array, " B"]:
    """For which pictures the operation is done."""
    return units[operation] < probability


def uniform(units: Units, operation: int, low: float, high: float) -> Float[Array, " B"]:
    """How much of the operation each picture gets."""
    return low + units[operation] * (high - low)


def order(units: Units, length: int) -> Int[Array, "length B"]:
    """A random order of 0 to length - 1 for each picture."""
    return jnp.argsort(units[jnp.asarray(ORDER[:length])], axis=0)


def _pairs(
    keys: Key[Array, " B"], numbers: Int[Array, " N"]
) -> tuple[Key[Array, " B*N"], Int[Array, " B*N"]]:
    """Each key with each number."""
    shape = keys.shape + numbers.shape
    return jnp.broadcast_to(keys[:, None], shape).reshape(-1), jnp.broadcast_to(numbers, shape).reshape(-1)
