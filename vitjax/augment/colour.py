"""Colours: brightness, contrast, saturation and hue in a random order, grey, solarise.

The four adjustments are one operation with different numbers, done four times: either a mixture of the
picture, its grey and its mean, or, in HSV, a turn of the hue and a factor of the chroma. Each picture has its
own numbers each time, so that a random order needs neither a branch nor four times four operations.

Pictures are planes [B, 3, H, W] in 0..1, and each adjustment is cut off there, as in all the originals.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vitjax.augment import draws

GREY = (0.2989, 0.587, 0.114)
# 'torchvision' mixes with greys and multiplies the brightness. The two made with TensorFlow's formulas take
# the contrast about each channel's own mean and the saturation in HSV; BYOL adds to the brightness.
FORMS = ("torchvision", "simclr", "byol")


class Adjustment(NamedTuple):
    """What is done to each picture: scale * x + grey * grey(x) + mean * mean(x) + offset; or in HSV.

    `in_hsv` says which pictures get the second: their hue is moved by so many turns, and their chroma, which
    is the largest channel minus the smallest, multiplied, while the largest channel stays.
    """

    scale: Float[Array, " B"]
    grey: Float[Array, " B"]
    mean: Float[Array, " B"]
    offset: Float[Array, " B"]
    turn: Float[Array, " B"]
    chroma: Float[Array, " B"]
    in_hsv: Bool[Array, " B"]


class Jitter(NamedTuple):
    """How often colours are jittered, and by how much: the largest deviation from 1, of the hue in turns."""

    probability: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    form: str  # one of FORMS


def nothing(count: int) -> Adjustment:
    """What changes none of `count` pictures."""
    zeros, ones = jnp.zeros(count), jnp.ones(count)
    return Adjustment(ones, zeros, zeros, zeros, zeros, ones, jnp.zeros(count, bool))


def brightness(factor: Float[Array, " B"]) -> Adjustment:
    """Pictures, multiplied."""
    return nothing(len(factor))._replace(scale=factor)


def added_brightness(offset: Float[Array, " B"]) -> Adjustment:
    """Pictures, and so much more of each colour."""
    return nothing(len(offset))._replace(offset=offset)


def contrast(factor: Float[Array, " B"]) -> Adjustment:
    """Deviations from the mean, multiplied; of which mean, `adjusted` is told."""
    return nothing(len(factor))._replace(scale=factor, mean=1 - factor)


def saturation(factor: Float[Array, " B"]) -> Adjustment:
    """Deviations from each pixel's grey, multiplied."""
    return nothing(len(factor))._replace(scale=factor, grey=1 - factor)


def hsv_saturation(factor: Float[Array, " B"]) -> Adjustment:
    """The saturation of HSV, multiplied and cut off at 1."""
    return nothing(len(factor))._replace(chroma=factor, in_hsv=jnp.ones(len(factor), bool))


def hue(turn: Float[Array, " B"]) -> Adjustment:
    """The hue of HSV, moved by so many turns."""
    return nothing(len(turn))._replace(turn=turn, in_hsv=jnp.ones(len(turn), bool))


def random_jitter(
    units: draws.Units, images: Float[Array, "B 3 H W"], jitter: Jitter
) -> Float[Array, "B 3 H W"]:
    """Pictures with other colours: those that are jittered get every adjustment, each in its own order."""
    steps = _drawn(units, jitter)
    if not steps:
        return images
    flat = images.reshape(*images.shape[:2], -1)
    grey_mean = jitter.form == "torchvision"
    # A loop, where four copies in a row would do: what is fused across them is computed over and over.
    flat, _ = jax.lax.scan(lambda x, step: (_adjusted(x, step, grey_mean), None), flat, steps)
    return flat.reshape(images.shape)


def adjusted(
    images: Float[Array, "B 3 H W"], adjustment: Adjustment, grey_mean: bool = True
) -> Float[Array, "B 3 H W"]:
    """Pictures after one adjustment.

    Args:
      grey_mean: the mean is that of the grey picture, as in torchvision; else each channel has its own.
    """
    flat = images.reshape(*images.shape[:2], -1)
    return _adjusted(flat, adjustment, grey_mean).reshape(images.shape)


def random_grey(
    units: draws.Units, images: Float[Array, "B 3 H W"], probability: float
) -> Float[Array, "B 3 H W"]:
    """Pictures, of which some have their grey in all three channels."""
    which = draws.coin(units, draws.GREY, probability)
    return jnp.where(which[:, None, None, None], _grey(images), images)


def random_solarise(
    units: draws.Units, images: Float[Array, "B 3 H W"], probability: float, threshold: float
) -> Float[Array, "B 3 H W"]:
    """Pictures, of which some have every value from `threshold` on inverted."""
    which = draws.coin(units, draws.SOLARISE, probability)
    return jnp.where(which[:, None, None, None] & (images >= threshold), 1 - images, images)


def _drawn(units: draws.Units, jitter: Jitter) -> Adjustment | None:
    """The adjustments of each picture in its order, [4, B]; those without strength are left out."""
    added, in_hsv = jitter.form == "byol", jitter.form != "torchvision"
    kinds = (  # a factor of 1 changes nothing, nor does 0 where something is added
        (added_brightness if added else brightness, draws.BRIGHTNESS, 0 if added else 1, jitter.brightness),
        (contrast, draws.CONTRAST, 1, jitter.contrast),
        (hsv_saturation if in_hsv else saturation, draws.SATURATION, 1, jitter.saturation),
        (hue, draws.HUE, 0, jitter.hue),
    )
    made = []
    for make, operation, middle, strength in kinds:
        if strength > 0:
            low = max(0.0, 1 - strength) if middle else -strength
            made.append(make(draws.uniform(units, operation, low, middle + strength)))
    if not made:
        return None
    which = draws.coin(units, draws.JITTER, jitter.probability)
    orders = draws.order(units, len(made))

    def ordered(spared: Array, *numbers: Array) -> Array:
        in_order = jnp.take_along_axis(jnp.stack(numbers), orders, axis=0)
        return jnp.where(which, in_order, spared)

    return jax.tree.map(ordered, nothing(units.shape[1]), *made)


def _adjusted(x: Float[Array, "B 3 N"], step: Adjustment, grey_mean: bool) -> Float[Array, "B 3 N"]:
    """Both kinds of adjustment, and of each picture the one that is meant."""
    mean = jnp.mean(x, axis=-1)
    if grey_mean:
        # The mean of the grey is the grey of the mean, which has three numbers.
        mean = jnp.sum(mean * np.asarray(GREY, np.float32), axis=-1, keepdims=True)
    level = (step.mean[:, None] * mean + step.offset[:, None])[:, :, None]
    scale, grey = step.scale[:, None, None], step.grey[:, None, None]
    mixed = jnp.clip(scale * x + (grey * _grey(x) + level), 0.0, 1.0)
    return jnp.where(step.in_hsv[:, None, None], _turned(x, step.turn, step.chroma), mixed)


def _grey(images: Float[Array, "B 3 *N"]) -> Float[Array, "B 1 *N"]:
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def _turned(
    x: Float[Array, "B 3 N"], turn: Float[Array, " B"], factor: Float[Array, " B"]
) -> Float[Array, "B 3 N"]:
    """Colours with another hue and chroma and the same largest channel, without a way through HSV.

    A channel falls below the largest by the chroma times a function of the hue, which is 0, 1, or a slope
    between them that depends on how many sixths of a turn the hue is away: the same one for each channel,
    a third of a turn apart.
    """
    red, green, blue = x[:, 0], x[:, 1], x[:, 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    inverse = 1 / jnp.where(chroma == 0, 1.0, chroma)  # a grey has no hue, and needs none
    of_red = (green - blue) * inverse
    of_green = (blue - red) * inverse + 2
    of_blue = (red - green) * inverse + 4
    sixths = jnp.where(value == red, of_red, jnp.where(value == green, of_green, of_blue))
    chroma = jnp.minimum(factor[:, None] * chroma, value)
    away = (sixths + 6 * turn[:, None])[:, None] + np.asarray([[5], [3], [1]], np.float32)
    away = away - 6 * jnp.floor(away / 6)
    return value[:, None] - chroma[:, None] * jnp.clip(2 - jnp.abs(away - 2), 0.0, 1.0)
