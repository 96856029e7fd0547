"""Crops, resizes and flips.

A canvas holds the whole picture at its top left, and `size` says how much of it that is. A crop and its
resize are two small matrix products with weights made from the box, antialiased as in PIL, which the
accelerator does for next to nothing; a flip only turns the weights around.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from vitjax.augment import draws

METHODS = ("bicubic", "bilinear")
ASPECTS = ("keep", "squash")
_TRIES = 10


class Box(NamedTuple):
    """A part of each picture, in pixels of the canvas."""

    top: Int[Array, " B"]
    left: Int[Array, " B"]
    height: Int[Array, " B"]
    width: Int[Array, " B"]


def random_resized_crop(
    keys: Key[Array, " B*V"],
    images: UInt8[Array, "B H W 3"],
    sizes: Int[Array, "B 2"],
    size_px: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    method: str = "bicubic",
    flip: float = 0.0,
) -> Float[Array, "B*V S S 3"]:
    """Random crops, resized to `size_px`, in 0..1; with probability `flip` mirrored, as by `random_flip`.

    The box has an area uniform in `area` (as a part of the picture) and an aspect (width / height)
    log-uniform in `aspect`; after ten boxes that did not fit it is the largest at the centre whose aspect
    is in range. Nothing outside the box is read, as in PIL's crop and then resize.

    Source: RandomResizedCrop of torchvision; Szegedy et al., 2015, Going deeper with convolutions.
    """
    views = len(keys) // len(images)
    sizes = jnp.broadcast_to(jnp.maximum(sizes, 1)[:, None], (len(images), views, 2)).reshape(-1, 2)
    box = _crop_box(keys, sizes, area, aspect)
    mirror = mirrored(keys, flip) if flip > 0 else None
    canvas_h, canvas_w = images.shape[1:3]
    rows = resize_weights(box.top, box.height, size_px, canvas_h, method)
    columns = resize_weights(box.left, box.width, size_px, canvas_w, method, mirror=mirror)
    return _resample(images, rows, columns)


def center_crop(
    images: UInt8[Array, "B H W 3"],
    sizes: Int[Array, "B 2"],
    size_px: int,
    crop_fraction: float,
    method: str = "bicubic",
    aspect: str = "keep",
) -> Float[Array, "B S S 3"]:
    """The middle of each picture in 0..1: short side resized to `resized_px`, then cut.

    With the aspect 'squash' both sides are resized to that length. A picture that is smaller is enlarged. The cut
    starts where torchvision's does.
    """
    canvas_h, canvas_w = images.shape[1:3]
    sizes = jnp.maximum(sizes, 1)  # a padded row may have none
    resized_short = resized_px(size_px, crop_fraction)
    short = jnp.minimum(sizes[:, 0], sizes[:, 1])
    weights = []
    for side, canvas in ((sizes[:, 0], canvas_h), (sizes[:, 1], canvas_w)):
        resized = resized_short * side // (side if aspect == "squash" else short)
        first = jnp.round((resized - size_px) / 2)
        start = jnp.zeros_like(side)
        weights.append(resize_weights(start, side, size_px, canvas, method, resized=resized, first=first))
    return _resample(images, *weights)


def resized_px(size_px: int, crop_fraction: float) -> int:
    """The short side of a picture of whose middle `size_px` pixels are cut out, as torchvision and timm round it."""
    return int(size_px / crop_fraction + 1e-6)  # 224 / (224 / 229) is 228.99999999999997


def random_flip(
    keys: Key[Array, " B"], images: Float[Array, "B H W 3"], probability: float
) -> Float[Array, "B H W 3"]:
    """Each picture, mirrored left to right with this probability."""
    mirror = mirrored(keys, probability)
    return jnp.where(mirror[:, None, None, None], images[:, :, ::-1], images)


def mirrored(keys: Key[Array, " B"], probability: float) -> Bool[Array, " B"]:
    """Which pictures `random_flip` and `random_resized_crop` mirror."""
    return draws.coin(draws.units(keys), draws.FLIP, probability)


def resize_weights(
    start: Int[Array, " B"],
    length: Int[Array, " B"],
    size_px: int,
    canvas: int,
    method: str,
    *,
    resized: Int[Array, " B"] | None = None,
    first: Float[Array, " B"] | None = None,
    mirror: Bool[Array, " B"] | None = None,
) -> Float[Array, "B S N"]:
    """What each of N canvas pixels adds to each of `size_px` pixels of the resized box, along one axis.

    Args:
      start, length: the box.
      resized: how long the box becomes, where the output is only part of it; `size_px` by default.
      first: the output's first pixel, counted in the resized box.
      mirror: which outputs run backwards.
    """
    out = jnp.arange(size_px, dtype=jnp.float32)[None]
    if mirror is not None:
        out = jnp.where(mirror[:, None], size_px - 1 - out, out)
    if first is not None:
        out = out + first[:, None]
    shrink = length[:, None] / (size_px if resized is None else resized[:, None])
    centre = (out + 0.5) * shrink - 0.5 + start[:, None]
    pixel = jnp.arange(canvas, dtype=jnp.float32)
    # Shrinking widens the kernel, so that no pixel is passed over.
    distance = jnp.abs(centre[:, :, None] - pixel) / jnp.maximum(shrink, 1.0)[:, :, None]
    weights = _cubic(distance) if method == "bicubic" else jnp.maximum(0.0, 1.0 - distance)
    inside = (pixel >= start[:, None]) & (pixel < (start + length)[:, None])
    weights = jnp.where(inside[:, None, :], weights, 0.0)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def _cubic(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Keys's kernel with a = -0.5, as in PIL and torch's antialiased resize; torch's plain one has -0.75."""
    near = ((1.5 * x - 2.5) * x) * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return jnp.where(x < 1.0, near, jnp.where(x < 2.0, far, 0.0))


def _resample(
    images: UInt8[Array, "B H W 3"], rows: Float[Array, "B*V S H"], columns: Float[Array, "B*V S W"]
) -> Float[Array, "B*V S S 3"]:
    """The products of weights and pictures, in 0..1; cubic weights overshoot, and are cut off as in PIL."""
    # HIGH is float32 on CPUs, TF32 on GPUs and three passes of bfloat16 on TPUs, where one pass would
    # lose a grey level.
    high = jax.lax.Precision.HIGH
    # The crops of a picture are one taller product, which shares the picture.
    stacked = (rows / 255).reshape(len(images), -1, rows.shape[-1])
    tall = jnp.einsum("bsh,bhwc->bswc", stacked, images.astype(jnp.float32), precision=high)
    tall = tall.reshape(rows.shape[:2] + tall.shape[2:])
    return jnp.clip(jnp.einsum("btw,bswc->bstc", columns, tall, precision=high), 0.0, 1.0)


def _crop_box(
    keys: Key[Array, " B"], sizes: Int[Array, "B 2"], area: tuple[float, float], aspect: tuple[float, float]
) -> Box:
    """The random box of each picture."""

    def draw(key: Key[Array, ""], size: Int[Array, "2"]) -> Box:
        # In one row and then shaped, which gives the same numbers and takes a fifth of the time to compile.
        u = jax.random.uniform(jax.random.fold_in(key, draws.CROP), (4 * _TRIES,)).reshape(4, _TRIES)
        full_h, full_w = size[0], size[1]
        target = (full_h * full_w) * (area[0] + u[0] * (area[1] - area[0]))
        ratio = jnp.exp(math.log(aspect[0]) + u[1] * (math.log(aspect[1]) - math.log(aspect[0])))
        width = jnp.round(jnp.sqrt(target * ratio)).astype(jnp.int32)
        height = jnp.round(jnp.sqrt(target / ratio)).astype(jnp.int32)
        fits = (width > 0) & (width <= full_w) & (height > 0) & (height <= full_h)
        # u is below 1, but its product with a large range can round up to the range.
        top = jnp.minimum((u[2] * (full_h - height + 1)).astype(jnp.int32), full_h - height)
        left = jnp.minimum((u[3] * (full_w - width + 1)).astype(jnp.int32), full_w - width)
        chosen = jnp.argmax(fits)
        drawn = Box(top[chosen], left[chosen], height[chosen], width[chosen])
        middle = _middle_box(full_h, full_w, aspect)
        return jax.tree.map(lambda a, b: jnp.where(jnp.any(fits), a, b), drawn, middle)

    return jax.vmap(draw)(keys, sizes)


def _middle_box(full_h: Int[Array, ""], full_w: Int[Array, ""], aspect: tuple[float, float]) -> Box:
    """The largest box at the centre whose aspect is in range."""
    height = jnp.minimum(full_h, jnp.round(full_w / aspect[0]).astype(jnp.int32))
    width = jnp.minimum(full_w, jnp.round(full_h * aspect[1]).astype(jnp.int32))
    height, width = jnp.maximum(height, 1), jnp.maximum(width, 1)
    return Box((full_h - height) // 2, (full_w - width) // 2, height, width)
