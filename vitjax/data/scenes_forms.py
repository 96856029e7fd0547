"""The forms of scenes as formulas: shapes by their distance to the edge, textures and patterns as shares.

`sharp` is always the number of pixels in one unit of the coordinates: edges are one pixel wide at any size.
"""

from collections.abc import Callable

import numpy as np


def _wave(p: np.ndarray, sharp: np.ndarray) -> np.ndarray:
    """A square wave -0.5..0.5 of period 1; `sharp` is the period in pixels, for edges one pixel wide."""
    p = p - np.floor(p)
    p -= np.float32(0.5)
    np.abs(p, out=p)
    p -= np.float32(0.25)
    p *= sharp
    return np.clip(p, -0.5, 0.5, out=p)


def _spots(p: np.ndarray, q: np.ndarray, sharp: np.ndarray, radius: float) -> np.ndarray:
    """1 in discs on a square lattice of period 1."""
    p = p - np.floor(p) - np.float32(0.5)
    q = q - np.floor(q) - np.float32(0.5)
    return np.clip(0.5 + (np.float32(radius) - np.sqrt(p * p + q * q)) * sharp, 0, 1)


def _lines(p: np.ndarray, sharp: np.ndarray, width: float) -> np.ndarray:
    """1 on lines of this width and period 1."""
    p = p - np.floor(p) - np.float32(0.5)
    return np.clip(0.5 + (np.float32(width / 2) - np.abs(p)) * sharp, 0, 1)


def _turns(p: np.ndarray) -> np.ndarray:
    """The sine of p turns."""
    return np.sin(np.float32(2 * np.pi) * p)


def _bricks(p: np.ndarray, q: np.ndarray, sharp: np.ndarray) -> np.ndarray:
    """1 on the mortar: courses of period 1, joints of period 2, shifted by half in every other course."""
    course = np.floor(q)
    joint = p * np.float32(0.5) + np.float32(0.5) * (course - 2 * np.floor(course / 2))
    return np.maximum(_lines(q + np.float32(0.5), sharp, 0.22), _lines(joint, 2 * sharp, 0.11))


def _clouds(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Soft patches 0..1: sines whose places other sines bend."""
    p, q = p * np.float32(0.45), q * np.float32(0.45)
    low = np.sin(np.float32(5.1) * p + np.float32(1.7) * _turns(np.float32(0.61) * q))
    high = np.sin(np.float32(4.3) * q + np.float32(1.9) * _turns(np.float32(0.53) * p + np.float32(0.3) * q))
    return np.float32(0.5) + np.float32(0.25) * (low + high)


def _centred(p: np.ndarray) -> np.ndarray:
    """p less its value in the middle of the picture, where a linear p has its mean."""
    return p - (p[:, :1, :1] + p[:, -1:, -1:]) / 2


def _astray(p: np.ndarray) -> np.ndarray:
    """p with its zero somewhere within a period and a half of the middle, by its phase."""
    middle = (p[:, :1, :1] + p[:, -1:, -1:]) / 2
    return p - middle + 3 * (middle - np.floor(middle) - np.float32(0.5))


# Share of the second background colour; p and q count periods in two directions at a right angle.
GROUNDS: dict[str, Callable] = {
    "plain": lambda p, q, sharp: np.full_like(p, 0.5),
    "graded": lambda p, q, sharp: 0.5 + _centred(p) / (2 * _centred(p).max((1, 2), keepdims=True)),
    "striped": lambda p, q, sharp: 0.5 + _wave(p, sharp),
    "chequered": lambda p, q, sharp: 0.5 + 2 * _wave(p * 0.7, sharp / 0.7) * _wave(q * 0.7, sharp / 0.7),
    "dotted": lambda p, q, sharp: _spots(p, q, sharp, 0.3),
    "wavy": lambda p, q, sharp: 0.5 + _wave(p + np.float32(0.45) * _turns(q * np.float32(0.5)), sharp),
    "cloudy": lambda p, q, sharp: _clouds(p, q),
    "brick": lambda p, q, sharp: _bricks(p, q, sharp),
    "ringed": lambda p, q, sharp: 0.5 + _wave(np.sqrt(_astray(p) ** 2 + _astray(q) ** 2), sharp),
    "grid": lambda p, q, sharp: np.maximum(_lines(p, sharp, 0.24), _lines(q, sharp, 0.24)),
}


def _circle(u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    return np.sqrt(u * u + v * v) - np.float32(radius)


def _rectangle(u: np.ndarray, v: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(u) - np.float32(half_width), np.abs(v) - np.float32(half_height))


def _diamond(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    long, wide = 1.0, 0.62
    flat = np.abs(u) * np.float32(long) + np.abs(v) * np.float32(wide) - np.float32(long * wide)
    return flat * np.float32(1 / np.hypot(long, wide))


def _wedge(u: np.ndarray, v: np.ndarray, apex: float, base: float, half_width: float) -> np.ndarray:
    """A triangle that points up, from v=apex to v=base, with this half-width at its base."""
    height = base - apex
    scale = 1 / np.hypot(height, half_width)
    flank = np.abs(u) * np.float32(height * scale) - (v - np.float32(apex)) * np.float32(half_width * scale)
    return np.maximum(flank, v - np.float32(base))


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five half-planes bound a pentagon; a point of the star is outside at most one of them."""
    first, second = np.full_like(u, -9), np.full_like(u, -9)
    for k in range(5):
        turn = np.pi / 2 + 2 * np.pi * k / 5
        side = u * np.float32(np.cos(turn)) + v * np.float32(np.sin(turn))
        second = np.maximum(second, np.minimum(first, side))
        first = np.maximum(first, side)
    return second - np.float32(0.36)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(_rectangle(u, v, 0.92, 0.3), _rectangle(u, v, 0.3, 0.92))


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(_circle(u, v, 0.68)) - np.float32(0.24)


def _crescent(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(_circle(u, v, 0.95), -_circle(u - np.float32(0.5), v, 0.8))


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A square on its corner, with half discs on its two upper sides."""
    half = 0.8
    u, v = np.abs(u), v - np.float32(0.14)
    square = (u + np.abs(v) - np.float32(half)) * np.float32(np.sqrt(0.5))
    lobe = _circle(u - np.float32(half / 2), v + np.float32(half / 2), half * np.sqrt(0.5))
    return np.minimum(square, lobe)


def _arrow(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(_wedge(u, v, -0.98, 0.1, 0.85), _rectangle(u, v - np.float32(0.45), 0.3, 0.5))


def _flower(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Four petals."""
    u, v = np.abs(u), np.abs(v)
    return _circle(np.maximum(u, v) - np.float32(0.5), np.minimum(u, v), 0.46)


# Signed distances to the edge in radii, negative inside; u to the right, v down.
SHAPES: dict[str, Callable] = {
    "disc": lambda u, v: _circle(u, v, 0.9),
    "square": lambda u, v: _rectangle(u, v, 0.7, 0.7),
    "triangle": lambda u, v: _wedge(u, v, -0.98, 0.55, 0.83),
    "diamond": _diamond,
    "bar": lambda u, v: _rectangle(u, v, 0.93, 0.36),
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "crescent": _crescent,
    "heart": _heart,
    "arrow": _arrow,
    "flower": _flower,
}

# Share of the second colour, 0..1; `sharp` is the radius in pixels.
PATTERNS: dict[str, Callable] = {
    "plain": lambda u, v, sharp: np.zeros_like(u),
    "striped": lambda u, v, sharp: 0.5 + _wave(2 * u, sharp / 2),
    "chequered": lambda u, v, sharp: 0.5 + 2 * _wave(1.4 * u, sharp / 1.4) * _wave(1.4 * v, sharp / 1.4),
    "dotted": lambda u, v, sharp: _spots(2.2 * u, 2.2 * v, sharp / 2.2, 0.3),
    "shaded": lambda u, v, sharp: np.clip(0.45 + 0.5 * v, 0, 1),
    "marbled": lambda u, v, sharp: _clouds(3.2 * u, 3.2 * v) ** 2,
}
