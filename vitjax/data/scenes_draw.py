"""Scenes as pixels: backgrounds, objects laid over one another by depth, light and grain.

All is vectorised over pictures: objects whose windows have the same number of pixels are drawn together,
first the local coordinates, then each shape, then each pattern. What a pixel gets depends on its picture
alone, so a picture has the same bytes in any batch. Edges are antialiased by the distance to them in pixels.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Int8, UInt8

from vitjax.data import scenes as world
from vitjax.data.scenes import Scenes
from vitjax.data.scenes_forms import GROUNDS, PATTERNS, SHAPES

_CHUNK_VALUES = 1 << 20  # of the canvas that is worked on at once: many objects a window size, yet in cache
_RIM = 0.09  # width of the dark rim, as a share of the radius


def draw(scenes: Scenes, size_px: int) -> UInt8[np.ndarray, "B S S 3"]:
    """The pictures, size_px a side."""
    out = np.empty((len(scenes.texture), size_px, size_px, 3), np.uint8)
    chunk = max(1, _CHUNK_VALUES // (3 * size_px * size_px))
    for start in range(0, len(out), chunk):
        rows = slice(start, start + chunk)
        _draw_chunk(world.take(scenes, rows), size_px, out[rows])
    return out


class Instances(NamedTuple):
    """What is visible of the objects of one picture, the main one first."""

    objects: Int[np.ndarray, " M"]  # their numbers on the axis M of Scenes
    masks: Bool[np.ndarray, "M S S"]
    boxes: Float32[np.ndarray, "M 4"]  # y0, x0, y1, x1 in 0..1


def instances(scenes: Scenes, row: int, size_px: int) -> Instances:
    """Masks and boxes of the visible pixels of one picture's objects.

    An object without any is left out; at 32 px and above every object has some.
    """
    owner = owners(world.take(scenes, slice(row, row + 1)), size_px)
    corners, visible = boxes(owner)
    objects = np.flatnonzero(visible[0])
    return Instances(objects, owner[0] == objects[:, None, None], corners[0, objects])


def owners(scenes: Scenes, size_px: int) -> Int8[np.ndarray, "B S S"]:
    """The number of the object that each pixel belongs to: the frontmost that covers half of it; -1 is none."""
    owner = np.full((len(scenes.texture), size_px, size_px), -1, np.int8)
    for layer in _layers(scenes, size_px):
        view, window = layer.cut(size_px)
        owner[layer.row][view][layer.keep[window] <= 0.5] = layer.number
    return owner


def boxes(
    owner: Int8[np.ndarray, "B S S"],
) -> tuple[Float32[np.ndarray, "B M 4"], Bool[np.ndarray, "B M"]]:
    """(y0, x0, y1, x1) in 0..1 of each object's pixels, and whether it has any."""
    side = owner.shape[1]
    corners = np.zeros((len(owner), world.MAX_OBJECTS, 4), np.float32)
    visible = np.zeros(corners.shape[:2], bool)
    for number in range(world.MAX_OBJECTS):
        mask = owner == number
        for axis, at in ((2, 0), (1, 1)):  # the rows give y, the columns x
            lines = mask.any(axis)
            corners[:, number, at] = lines.argmax(1) / side
            corners[:, number, at + 2] = 1 - lines[:, ::-1].argmax(1) / side
        visible[:, number] = lines.any(1)
    return corners, visible


def _draw_chunk(scenes: Scenes, size_px: int, out: UInt8[np.ndarray, "B S S 3"]) -> None:
    """Fills `out`. The canvas holds values 0..255, channels before pixels so that inner loops are long."""
    canvas = _background(scenes, size_px)
    for layer in _layers(scenes, size_px):
        view, window = layer.cut(size_px)
        region = canvas[layer.row][(slice(None), *view)]
        region *= layer.keep[window]
        region += layer.paint[(slice(None), *window)]
    across = (np.arange(size_px, dtype=np.float32) + np.float32(0.5)) / np.float32(size_px) - np.float32(0.5)
    light = scenes.light.astype(np.float32)
    gain = (1 + light[:, :1] * across)[:, :, None] + (light[:, 1:] * across)[:, None, :]
    canvas *= gain[:, None]
    noise = _noise(size_px)
    for row, (y, x) in enumerate(scenes.grain_at.tolist()):
        canvas[row] += np.float32(255 * scenes.grain[row]) * noise[:, y : y + size_px, x : x + size_px]
    np.clip(canvas, 0, 255, out=canvas)
    for channel in range(3):
        out[..., channel] = canvas[:, channel]


@lru_cache(maxsize=4)
def _noise(size_px: int) -> Float32[np.ndarray, "3 T T"]:
    """A tile of independent values of variance 1, repeated to hold a window at any offset below 256."""
    u = world.uniforms(0, "train", np.arange(256), 256 * 12, stream=1).reshape(256, 256, 3, 4)
    tile = ((u[..., 0] + u[..., 1] + u[..., 2] + u[..., 3] - 2) * np.sqrt(3)).astype(np.float32)
    times = 1 + -(-size_px // 256)
    return np.ascontiguousarray(np.tile(tile.transpose(2, 0, 1), (1, times, times)))


def _background(scenes: Scenes, size_px: int) -> Float32[np.ndarray, "B 3 S S"]:
    """The pictures without objects: a mixture of two colours by a texture in 0..1."""
    ground = (255 * scenes.ground).astype(np.float32)
    canvas = np.empty((len(ground), 3, size_px, size_px), np.float32)
    at = ((np.arange(size_px) + 0.5) / size_px).astype(np.float32)
    for texture in range(len(world.TEXTURES)):
        rows = np.flatnonzero(scenes.texture == texture)
        if not len(rows):
            continue
        period = scenes.ground_period[rows]
        cos, sin = np.cos(scenes.ground_angle[rows]) / period, np.sin(scenes.ground_angle[rows]) / period
        phase = scenes.ground_phase[rows].astype(np.float32)
        p = _plane(-sin, cos, at, at) + phase[:, :1, None]
        q = _plane(cos, sin, at, at) + phase[:, 1:, None]
        sharp = (period * size_px).astype(np.float32)[:, None, None]
        t = GROUNDS[world.TEXTURES[texture]](p, q, sharp)
        one, two = ground[rows, 0, :, None, None], ground[rows, 1, :, None, None]
        canvas[rows] = one + t[:, None] * (two - one)
    return canvas


def _plane(dy: np.ndarray, dx: np.ndarray, y: np.ndarray, x: np.ndarray) -> Float32[np.ndarray, "B H W"]:
    """dy*y + dx*x for every pixel; y and x are [H], [W] or one a picture."""
    dy, dx = dy.astype(np.float32)[:, None], dx.astype(np.float32)[:, None]
    return (dy * y)[:, :, None] + (dx * x)[:, None, :]


class _Layer(NamedTuple):
    """One object as a window of pixels to lay over picture `row`: canvas * keep + paint."""

    row: int
    number: int
    top: int
    left: int
    keep: Float32[np.ndarray, "W W"]
    paint: Float32[np.ndarray, "3 W W"]

    def cut(self, size_px: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Where the window lies in the picture, and which part of the window that is."""
        side = len(self.keep)
        y0, y1 = max(self.top, 0), min(self.top + side, size_px)
        x0, x1 = max(self.left, 0), min(self.left + side, size_px)
        inside = slice(y0 - self.top, y1 - self.top), slice(x0 - self.left, x1 - self.left)
        return (slice(y0, y1), slice(x0, x1)), inside


def _layers(scenes: Scenes, size_px: int) -> Iterator[_Layer]:
    """The objects of all pictures, those at the back first."""
    rows, numbers = np.nonzero(scenes.present)
    reach = scenes.radius[rows, numbers] * size_px
    step = max(2, size_px // 16)  # windows come in few sizes, so that many objects share one
    sides = (np.ceil((2 * reach + 2) / step) * step).astype(np.int64)
    corners = np.rint(scenes.centre[rows, numbers] * size_px - sides[:, None] / 2).astype(np.int64)
    layers = []
    for side in np.unique(sides).tolist():
        group = np.flatnonzero(sides == side)
        keep, paint = _paint(scenes, rows[group], numbers[group], corners[group], side, size_px)
        places = zip(rows[group].tolist(), numbers[group].tolist(), corners[group].tolist())
        layers += [_Layer(r, m, y, x, keep[k], paint[k]) for k, (r, m, (y, x)) in enumerate(places)]
    depth = scenes.depth.tolist()
    return iter(sorted(layers, key=lambda layer: depth[layer.row][layer.number]))


def _paint(scenes: Scenes, rows, numbers, corners, side: int, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """How much of the canvas to keep [N, W, W] and what to add to it [N, 3, W, W], for N equal windows."""
    angle, radius = scenes.angle[rows, numbers], scenes.radius[rows, numbers]
    start = (corners + 0.5) / size_px - scenes.centre[rows, numbers]
    local = (start[:, :, None] + np.arange(side) / size_px) / radius[:, None, None]
    y, x = local[:, 0].astype(np.float32), local[:, 1].astype(np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = _plane(sin, cos, y, x), _plane(cos, -sin, y, x)
    sharp = (radius * size_px).astype(np.float32)[:, None, None]
    inside = _by_class(scenes.shape[rows, numbers], SHAPES, world.SHAPES, u, v)
    inside *= -sharp
    cover = np.clip(inside + np.float32(0.5), 0, 1)
    rim = np.clip(np.float32(1.0) - inside / (np.float32(_RIM) * sharp + np.float32(0.5)), 0, 1)
    t = _by_class(scenes.pattern[rows, numbers], PATTERNS, world.PATTERNS, u, v, sharp)
    colours = (255 * scenes.colours[rows, numbers]).astype(np.float32)[..., None, None]
    paint = colours[:, 0] + t[:, None] * (colours[:, 1] - colours[:, 0])
    paint *= (cover * (np.float32(1) - np.float32(0.6) * rim))[:, None]
    return np.float32(1) - cover, paint


def _by_class(
    classes: np.ndarray, formulas: dict[str, Callable], names: tuple[str, ...], *inputs: np.ndarray
) -> np.ndarray:
    """Each object's formula, by its class, of its part of the inputs."""
    out = np.empty_like(inputs[0])
    for number in np.unique(classes).tolist():
        mine = np.flatnonzero(classes == number)
        out[mine] = formulas[names[number]](*(array[mine] for array in inputs))
    return out
