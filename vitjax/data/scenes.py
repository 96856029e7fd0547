"""Scenes: a small world of pictures that this file invents, with all there is to know about each of them.

Picture i of (seed, split) is always the same, at any size, drawn alone or among others: every number in it
comes from a counter-based generator keyed by (VERSION, seed, split, i). Splits share no picture, and nothing
is downloaded.

**A picture** holds one *main* object and 0 to 4 *distractors* in front of a textured background, lit from
one side, with a little grain. Lengths are shares of the picture's side.

- Shape, one of SHAPES (12), turned by at most 30 degrees from upright. Every shape lies in a circle, whose
  diameter is the object's size and whose centre is its place.
- Hue, one of HUES (8), with jitter in hue, saturation and value inside the class.
- Pattern, one of PATTERNS (6), between the object's colour and a lighter or darker form of it; a dark rim.
- Size of the main object, one of SIZES: 0.34-0.40, 0.46-0.53 or 0.60-0.70. Distractors ('tiny' in captions)
  have 0.15-0.22, so the main object is the largest one by far, also of what is visible.
- Place of the main object, one of PLACES (3x3): its centre lies within 0.09 of 0.25, 0.5 or 0.75 in each
  direction. A large object near an edge is cut by it. Between the classes of size and place lies a gap.
- Distractors lie anywhere. They overlap the main object's rim and one another by at most about half, in
  front or behind; one that finds no room is left out. A distractor repeats the shape and hue of the one
  before it every third time.
- Background, one of TEXTURES (10), in two colours, at any angle, with period 0.16-0.32. Its figure (stripes,
  dots, lines) is the lighter colour in four pictures of five.

**Labels** are uniform over their classes, which `class_names()` names. `label` and `label/shape`,
`label/hue`, `label/place` and `label/size` are those of the main object, `label/texture` the background's.

**On request**: five captions from the plain to the full; boxes, class mask and instance masks of the visible
pixels (a pixel belongs to the frontmost object that covers half of it); one question of each of ten types
with its answer out of a closed list (`scenes_text.QUESTION_TYPES`, `scenes_text.ANSWERS`):

    count        how many objects are there? how many red objects, how many stars? 0..5
    colour       of the largest object, or of the only disc: HUES
    shape        of the largest object, or of the only red one: SHAPES
    place        of the largest object: PLACES
    existence    is there a red star? a 'no' differs from an object of the picture in hue or shape alone
    comparison   are there more red objects than blue objects? 'no' where they are equal in number
    relation     is the red star above (below, left of, right of) the blue disc? never near a diagonal; with
                 no such pair: is the centre of the largest object in the left (right) half?
    size         of the largest object: SIZES
    pattern      of the largest object: PATTERNS
    background   what it looks like: TEXTURES
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

VERSION = 1  # of the world: whatever changes a picture's bytes changes it, since caches are named by it
SPLITS = ("train", "test", "validation")  # by position in the generator's key: append only

SHAPES = (
    "disc", "square", "triangle", "diamond", "bar", "star", "cross", "ring", "crescent", "heart", "arrow",
    "flower",
)  # fmt: skip
HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
PATTERNS = ("plain", "striped", "chequered", "dotted", "shaded", "marbled")
TEXTURES = ("plain", "graded", "striped", "chequered", "dotted", "wavy", "cloudy", "brick", "ringed", "grid")
SIZES = ("small", "medium", "large")
PLACES = (
    "top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right",
)  # fmt: skip
MAX_OBJECTS = 5

_HUE_DEGREES = np.array([0.0, 29.0, 54.0, 118.0, 182.0, 222.0, 275.0, 322.0])
_HUE_JITTER = np.array([8.0, 6.0, 6.0, 20.0, 9.0, 13.0, 11.0, 12.0])
_DIAMETER = np.array([[0.34, 0.40], [0.46, 0.53], [0.60, 0.70]])
_DIAMETER_DISTRACTOR = (0.15, 0.22)
_MAX_TURN = np.pi / 6
_CANDIDATES = 8  # places that a distractor tries before it is left out
_SLOTS = 192  # uniform numbers reserved for a picture; the words of scenes_text have a stream of their own


class Scenes(NamedTuple):
    """B pictures as numbers. Lengths and places are shares of the side, y downwards; colours are RGB in 0..1.

    Objects stand on the axis M; object 0 is the main one, `present` says which of the others exist.
    """

    texture: Int[np.ndarray, " B"]
    ground: Float[np.ndarray, "B 2 3"]
    ground_angle: Float[np.ndarray, " B"]
    ground_period: Float[np.ndarray, " B"]
    ground_phase: Float[np.ndarray, "B 2"]
    light: Float[np.ndarray, "B 2"]  # gain a side length, along y and x
    grain: Float[np.ndarray, " B"]  # standard deviation
    grain_at: Int[np.ndarray, "B 2"]
    place: Int[np.ndarray, " B"]
    size: Int[np.ndarray, " B"]
    present: Bool[np.ndarray, "B M"]
    depth: Int[np.ndarray, "B M"]  # 0 is drawn first
    shape: Int[np.ndarray, "B M"]
    hue: Int[np.ndarray, "B M"]
    pattern: Int[np.ndarray, "B M"]
    colours: Float[np.ndarray, "B M 2 3"]
    centre: Float[np.ndarray, "B M 2"]
    radius: Float[np.ndarray, "B M"]
    angle: Float[np.ndarray, "B M"]


def class_names() -> dict[str, tuple[str, ...]]:
    """The names of the classes of each label field."""
    return {
        "label": SHAPES,
        "label/shape": SHAPES,
        "label/texture": TEXTURES,
        "label/hue": HUES,
        "label/place": PLACES,
        "label/size": SIZES,
    }


def labels(scenes: Scenes) -> dict[str, Int[np.ndarray, " B"]]:
    """Every label field of the pictures, int32."""
    shape = scenes.shape[:, 0].astype(np.int32)
    return {
        "label": shape,
        "label/shape": shape,
        "label/texture": scenes.texture.astype(np.int32),
        "label/hue": scenes.hue[:, 0].astype(np.int32),
        "label/place": scenes.place.astype(np.int32),
        "label/size": scenes.size.astype(np.int32),
    }


def take(scenes: Scenes, rows) -> Scenes:
    """The chosen rows (an index array, a mask or a slice) of every field."""
    return Scenes(*(field[rows] for field in scenes))


def sample(seed: int, split: str, indices: Int[np.ndarray, " B"]) -> Scenes:
    """The pictures number `indices` of the split as numbers; what they hold does not depend on any size."""
    u = _Columns(uniforms(seed, split, indices, _SLOTS, stream=0))
    b = len(indices)
    shape, hue = _kinds(u, b)
    size, place = _choice(u.take(), len(SIZES)), _choice(u.take(), len(PLACES))
    diameter = _within(u.take(MAX_OBJECTS), *_DIAMETER_DISTRACTOR)
    diameter[:, 0] = _within(u.take(), *_DIAMETER[size].T)
    radius = diameter / 2
    main = np.stack([place // 3, place % 3], axis=-1) * 0.25 + 0.25 + _within(u.take(2), -0.09, 0.09)
    wanted = 1 + _choice(u.take(), MAX_OBJECTS)
    centre, fits = _arrange(main, radius, u.take((MAX_OBJECTS - 1) * _CANDIDATES * 2))
    return Scenes(
        texture=_choice(u.take(), len(TEXTURES)),
        ground=_ground_colours(u.take(6)),
        ground_angle=u.take() * np.pi,
        ground_period=_within(u.take(), 0.16, 0.32),
        ground_phase=u.take(2),
        light=_within(u.take(2), -0.35, 0.35),
        grain=_within(u.take(), 0.0, 0.02),
        grain_at=_choice(u.take(2), 256),
        place=place,
        size=size,
        present=fits & (np.arange(MAX_OBJECTS) < wanted[:, None]),
        depth=np.argsort(np.argsort(u.take(MAX_OBJECTS), axis=1), axis=1),
        shape=shape,
        hue=hue,
        pattern=_choice(u.take(MAX_OBJECTS), len(PATTERNS)),
        colours=_object_colours(hue, u.take(MAX_OBJECTS * 4).reshape(b, MAX_OBJECTS, 4)),
        centre=centre,
        radius=radius,
        angle=_within(u.take(MAX_OBJECTS), -_MAX_TURN, _MAX_TURN),
    )


def uniforms(
    seed: int, split: str, indices: Int[np.ndarray, " B"], slots: int, stream: int
) -> Float[np.ndarray, "B slots"]:
    """Numbers in [0, 1) that are a pure function of their arguments.

    Slot k of picture i is number i*slots + k of the splitmix64 sequence that starts at a hash of the rest.
    Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014 (the mixing).
    """
    entropy = [VERSION, seed, SPLITS.index(split), stream]
    start = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    at = indices.astype(np.uint64)[:, None] * np.uint64(slots) + np.arange(1, slots + 1, dtype=np.uint64)
    z = at * np.uint64(0x9E3779B97F4A7C15) + start
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)) * 2.0**-53


class _Columns:
    """Hands out the columns of `uniforms` one after the other."""

    def __init__(self, values: Float[np.ndarray, "B slots"]):
        self._values, self._next = values, 0

    def take(self, count: int | None = None) -> np.ndarray:
        """The next column [B], or the next `count` of them [B, count]."""
        start, self._next = self._next, self._next + (count or 1)
        assert self._next <= self._values.shape[1], "a picture needs more slots than are reserved"
        return self._values[:, start] if count is None else self._values[:, start : self._next]


def _choice(u: np.ndarray, count: int) -> np.ndarray:
    """Uniform numbers as classes 0..count-1."""
    return (u * count).astype(np.int64)


def _within(u: np.ndarray, low, high) -> np.ndarray:
    """Uniform numbers spread over [low, high)."""
    return low + u * (high - low)


def _kinds(u: _Columns, b: int) -> tuple[np.ndarray, np.ndarray]:
    """Shape and hue of every object; every third distractor repeats those of the one before it."""
    shape = _choice(u.take(MAX_OBJECTS), len(SHAPES))
    hue = _choice(u.take(MAX_OBJECTS), len(HUES))
    again = u.take(MAX_OBJECTS) < 1 / 3
    for m in range(2, MAX_OBJECTS):
        shape[:, m] = np.where(again[:, m], shape[:, m - 1], shape[:, m])
        hue[:, m] = np.where(again[:, m], hue[:, m - 1], hue[:, m])
    return shape, hue


def _arrange(main: np.ndarray, radius: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres [B, M, 2], and whether each object found room [B, M].

    A distractor takes the first of its candidate places that leaves it and all before it visible by at
    least about half. One that finds none still bars its last candidate.
    """
    b = len(main)
    candidates = u.reshape(b, MAX_OBJECTS - 1, _CANDIDATES, 2)
    centre, fits = np.empty((b, MAX_OBJECTS, 2)), np.ones((b, MAX_OBJECTS), bool)
    centre[:, 0] = main
    for m in range(1, MAX_OBJECTS):
        r = radius[:, m, None, None]
        tried = 0.8 * r + candidates[:, m - 1] * (1 - 1.6 * r)
        gap = np.hypot(*np.moveaxis(tried[:, :, None] - centre[:, None, :m], -1, 0))
        least = 0.7 * (radius[:, :m] + radius[:, m, None])
        least[:, 0] = 0.8 * radius[:, 0] + 0.5 * radius[:, m]
        free = np.all(gap >= least[:, None], axis=-1)
        first = np.where(free.any(1), free.argmax(1), _CANDIDATES - 1)
        centre[:, m] = tried[np.arange(b), first]
        fits[:, m] = free.any(1)
    return centre, fits


def _object_colours(hue: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The two colours of each object: a strong one of its hue, and the same much lighter or darker."""
    degrees = _HUE_DEGREES[hue] + _HUE_JITTER[hue] * (2 * u[..., 0] - 1)
    first = _rgb(degrees, _within(u[..., 1], 0.75, 1.0), _within(u[..., 2], 0.72, 1.0))
    second = np.where(u[..., 3, None] < 0.5, 0.35 + 0.65 * (0.25 + 0.75 * first), 0.4 * first)
    return np.stack([first, second], axis=-2)


def _ground_colours(u: np.ndarray) -> np.ndarray:
    """The two background colours: any hue, weaker than objects are; the figure's is mostly the lighter."""
    degrees = 360 * u[:, 0]
    dark = _within(u[:, 1], 0.16, 0.52)
    light = dark + _within(u[:, 2], 0.28, 0.42)
    one = _rgb(degrees, _within(u[:, 3], 0.1, 0.6), dark)
    two = _rgb(degrees + 80 * (u[:, 4] - 0.5), _within(u[:, 3], 0.1, 0.5), light)
    swap = (u[:, 5] < 0.2)[:, None]
    return np.stack([np.where(swap, two, one), np.where(swap, one, two)], axis=1)


def _rgb(degrees: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Colours [..., 3] in 0..1 from hue, saturation and value."""
    k = (np.array([5.0, 3.0, 1.0]) + degrees[..., None] / 60) % 6
    fall = np.clip(np.minimum(k, 4 - k), 0, 1)
    return value[..., None] * (1 - saturation[..., None] * fall)
