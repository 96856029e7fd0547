"""Scenes in words: captions, and questions with answers out of a closed list.

'A large striped red star' is the main object, 'a tiny blue disc' a distractor. Where a question says 'the
star' or 'the red object', there is exactly one, so that every answer is determined.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vitjax.data import scenes as world
from vitjax.data.scenes import Scenes

QUESTION_TYPES = (
    "count", "colour", "shape", "place", "existence", "comparison", "relation", "size", "pattern",
    "background",
)  # fmt: skip
# Every answer that a question can have; an answer's number is its place in this list.
ANSWERS = tuple(
    dict.fromkeys(
        ("yes", "no", *(str(n) for n in range(world.MAX_OBJECTS + 1)))
        + world.HUES
        + world.SHAPES
        + world.PLACES
        + world.SIZES
        + world.PATTERNS
        + world.TEXTURES
    )
)
SLOTS = 32  # uniform numbers that the questions of one picture may use
RELATIONS = ("above", "below", "left of", "right of")

_COUNTS = ("no", "one", "two", "three", "four", "five")
_IN_PLACE = dict(
    zip(
        world.PLACES,
        ("in the top left", "at the top", "in the top right", "on the left", "in the centre", "on the right")
        + ("in the bottom left", "at the bottom", "in the bottom right"),
    )
)


class Thing(NamedTuple):
    """One object in words, with its centre."""

    size: str
    pattern: str
    hue: str
    shape: str
    y: float
    x: float


def things(scenes: Scenes, row: int) -> list[Thing]:
    """The objects of one picture, the main one first."""
    size = world.SIZES[scenes.size[row]]
    return [
        Thing(
            size=size if m == 0 else "tiny",
            pattern=world.PATTERNS[scenes.pattern[row, m]],
            hue=world.HUES[scenes.hue[row, m]],
            shape=world.SHAPES[scenes.shape[row, m]],
            y=float(scenes.centre[row, m, 0]),
            x=float(scenes.centre[row, m, 1]),
        )
        for m in np.flatnonzero(scenes.present[row])
    ]


# Captions


def captions(scenes: Scenes, row: int) -> tuple[str, ...]:
    """Five captions of one picture, one of each form; each names the main object's hue and shape."""
    main, *others = things(scenes, row)
    ground = world.TEXTURES[scenes.texture[row]]
    where = _IN_PLACE[world.PLACES[scenes.place[row]]]
    kind, short, full = f"{main.hue} {main.shape}", f"{main.size} {main.hue} {main.shape}", _full_name(main)
    near = _others(main, others)
    group = _join(_groups(others))
    return (
        f"{_a(full)}{near} on {_a(ground)} background",
        f"{_a(ground)} background with {_a(short)} {where}" + (f", and {group}" if others else ""),
        f"a picture of {_a(short)} {where}{',' * bool(near)}{near}",
        f"{_a(kind)}" + (f" with {group}" if others else " alone"),
        f"there is {_a(full)} {where} of {_a(ground)} picture",
    )


def _full_name(thing: Thing) -> str:
    return f"{thing.size} {thing.pattern} {thing.hue} {thing.shape}"


def _others(main: Thing, others: list[Thing]) -> str:
    """' above two tiny blue discs and left of a tiny red ring', or ''."""
    clauses: dict[str, list[Thing]] = {}
    for other in others:
        clauses.setdefault(relation(main, other) or "near", []).append(other)
    return (" " if clauses else "") + _join([f"{r} {_join(_groups(group))}" for r, group in clauses.items()])


def relation(one: Thing, other: Thing) -> str | None:
    """Where `one` lies as seen from `other`: one of RELATIONS, or None near a diagonal."""
    dy, dx = one.y - other.y, one.x - other.x
    if max(abs(dy), abs(dx)) < 1.25 * min(abs(dy), abs(dx)):
        return None
    if abs(dy) > abs(dx):
        return "above" if dy < 0 else "below"
    return "left of" if dx < 0 else "right of"


def _groups(group: list[Thing]) -> list[str]:
    """'two tiny blue discs', 'a tiny red star': objects of one kind counted together."""
    kinds: dict[tuple[str, str], int] = {}
    for thing in group:
        kinds[thing.hue, thing.shape] = kinds.get((thing.hue, thing.shape), 0) + 1
    return [
        f"a tiny {hue} {shape}" if n == 1 else f"{_COUNTS[n]} tiny {hue} {_plural(shape)}"
        for (hue, shape), n in kinds.items()
    ]


def _a(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _plural(shape: str) -> str:
    return f"{shape}es" if shape == "cross" else f"{shape}s"


def _join(parts: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


# Questions


def questions(scenes: Scenes, row: int, u: Float[np.ndarray, "SLOTS"]) -> list[tuple[str, str]]:
    """One (question, answer) of each of QUESTION_TYPES, in that order; `u` decides what is asked.

    A picture with one object has no relation to ask for: its place in the picture is asked instead.
    """
    seen = things(scenes, row)
    main = seen[0]
    draw = _Draws(u)
    return [
        _count(seen, draw),
        _colour(seen, draw),
        _shape(seen, draw),
        ("where is the largest object?", world.PLACES[scenes.place[row]]),
        _existence(seen, draw),
        _comparison(seen, draw),
        _relation(seen, draw),
        ("how large is the largest object?", main.size),
        ("what pattern does the largest object have?", main.pattern),
        ("what does the background look like?", world.TEXTURES[scenes.texture[row]]),
    ]


class _Draws:
    """Choices out of a fixed row of uniform numbers."""

    def __init__(self, u: np.ndarray):
        self._u = iter(u.tolist())

    def coin(self) -> bool:
        return next(self._u) < 0.5

    def pick(self, options):
        return options[int(next(self._u) * len(options))]


def _count(seen: list[Thing], draw: _Draws) -> tuple[str, str]:
    what = draw.pick(("objects", "hue", "shape"))
    if what == "objects":
        return "how many objects are there?", str(len(seen))
    names = world.HUES if what == "hue" else world.SHAPES
    there, other = getattr(draw.pick(seen), what), draw.pick(names)
    name = there if draw.coin() or draw.coin() else other
    number = str(sum(getattr(thing, what) == name for thing in seen))
    return f"how many {name + ' objects' if what == 'hue' else _plural(name)} are there?", number


def _unique(seen: list[Thing], *fields: str) -> list[Thing]:
    """The objects that share these fields with no other."""
    keys = [tuple(getattr(thing, field) for field in fields) for thing in seen]
    return [thing for thing, key in zip(seen, keys) if keys.count(key) == 1]


def _colour(seen: list[Thing], draw: _Draws) -> tuple[str, str]:
    options = _unique(seen, "shape")
    if not options or draw.coin():
        return "what colour is the largest object?", seen[0].hue
    thing = draw.pick(options)
    return f"what colour is the {thing.shape}?", thing.hue


def _shape(seen: list[Thing], draw: _Draws) -> tuple[str, str]:
    options = _unique(seen, "hue")
    if not options or draw.coin():
        return "what shape is the largest object?", seen[0].shape
    thing = draw.pick(options)
    return f"what shape is the {thing.hue} object?", thing.shape


def _existence(seen: list[Thing], draw: _Draws) -> tuple[str, str]:
    """Half yes. A 'no' asks for an object of the picture with another hue or shape."""
    thing = draw.pick(seen)
    hue, shape = thing.hue, thing.shape
    yes, change_hue = draw.coin(), draw.coin()
    if not yes and change_hue:
        taken = {other.hue for other in seen if other.shape == shape}
        hue = draw.pick([name for name in world.HUES if name not in taken])
    elif not yes:
        taken = {other.shape for other in seen if other.hue == hue}
        shape = draw.pick([name for name in world.SHAPES if name not in taken])
    return f"is there {_a(f'{hue} {shape}')}?", "yes" if yes else "no"


def _comparison(seen: list[Thing], draw: _Draws) -> tuple[str, str]:
    """Numbers of two hues compared, one of them there; equal numbers are not 'more'."""
    there = draw.pick(seen).hue
    other = draw.pick([name for name in world.HUES if name != there])
    one, two = (there, other) if draw.coin() else (other, there)
    more = sum(thing.hue == one for thing in seen) > sum(thing.hue == two for thing in seen)
    return f"are there more {one} objects than {two} objects?", "yes" if more else "no"


def _relation(seen: list[Thing], draw: _Draws) -> tuple[str, str]:
    """Half yes; a 'no' names the opposite side."""
    named = _unique(seen, "hue", "shape")
    pairs = [(a, b, relation(a, b)) for a in named for b in named if a is not b and relation(a, b)]
    yes = draw.coin()
    if not pairs:
        side = "left" if seen[0].x < 0.5 else "right"
        asked = side if yes else {"left": "right", "right": "left"}[side]
        return f"is the centre of the largest object in the {asked} half?", "yes" if yes else "no"
    one, two, true = draw.pick(pairs)
    opposite = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
    asked = true if yes else opposite[true]
    return f"is the {one.hue} {one.shape} {asked} the {two.hue} {two.shape}?", "yes" if yes else "no"
