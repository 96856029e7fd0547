"""Augmentation that the generator's gradient passes through, so that few pictures last longer (Zhao et al. 2020).

Both what is real and what was made is augmented before the discriminator sees it, in the generator's step too. If
real pictures alone were, the generator would learn to make augmented ones. Pictures are in -1..1, and a draw is a
function of the row's key alone.

Source: Zhao et al., 2020, Differentiable augmentation for data-efficient GAN training, and its authors' code.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vitjax.errors import UserError

Augment = Callable[[Float[Array, "B H W C"], Key[Array, " B"]], Float[Array, "B H W C"]]

MAX_SHIFT = 1 / 8  # of the side
CUTOUT = 1 / 2


def make(names: Sequence[str]) -> Augment:
    """(pictures, row keys) -> pictures, with the operations of `config.objective.diff_augment` in their order.

    Raises:
      UserError: there is no such operation.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in OPERATIONS:
            raise UserError(
                f"config.objective.diff_augment={names!r}: {name!r} is not known; choose a tuple of "
                f"{', '.join(OPERATIONS)}, or () for none"
            )

    def augment(images: Float[Array, "B H W C"], keys: Key[Array, " B"]) -> Float[Array, "B H W C"]:
        for name in names:
            number, operation = OPERATIONS[name]
            images = jax.vmap(lambda x, k, f=operation, n=number: f(x, jax.random.fold_in(k, n)))(
                images, keys
            )
        return images

    return augment


def colour(x: Float[Array, "H W C"], key: Key[Array, ""]) -> Float[Array, "H W C"]:
    """Brightness moved by up to half, then saturation times 0 to 2, then contrast times 1/2 to 3/2."""
    brightness, saturation, contrast = jax.random.uniform(key, (3,))
    x = x + (brightness - 0.5)
    grey = jnp.mean(x, axis=-1, keepdims=True)
    x = grey + (x - grey) * (2 * saturation)
    mean = jnp.mean(x)
    return mean + (x - mean) * (contrast + 0.5)


def translation(x: Float[Array, "H W C"], key: Key[Array, ""]) -> Float[Array, "H W C"]:
    """Shifted by up to an eighth of the side each way; what comes in is 0, a middle grey."""
    most = [int(side * MAX_SHIFT + 0.5) for side in x.shape[:2]]
    starts = [
        jax.random.randint(jax.random.fold_in(key, axis), (), 0, 2 * shift + 1)
        for axis, shift in enumerate(most)
    ]
    padded = jnp.pad(x, [(shift, shift) for shift in most] + [(0, 0)])
    return jax.lax.dynamic_slice(padded, (*starts, 0), x.shape)


def cutout(x: Float[Array, "H W C"], key: Key[Array, ""]) -> Float[Array, "H W C"]:
    """With a square of half the side set to 0; its middle lies anywhere, so that part of it may be outside."""
    inside = []
    for axis, side in enumerate(x.shape[:2]):
        size = int(side * CUTOUT + 0.5)
        middle = jax.random.randint(jax.random.fold_in(key, axis), (), 0, side + 1 - size % 2)
        place = jnp.arange(side) - (middle - size // 2)
        inside.append((place >= 0) & (place < size))
    return jnp.where((inside[0][:, None] & inside[1][None, :])[:, :, None], 0.0, x)


# What each folds into a row's key, apart from the numbers of `vitjax.augment` and of the objectives.
OPERATIONS = {"colour": (130, colour), "translation": (131, translation), "cutout": (132, cutout)}
