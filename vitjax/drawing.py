"""Pictures with what is known of them drawn in, and sheets of them to look at."""

import colorsys
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from vitjax.data.decode import fit

CELL_PX = 256
GAP_PX, LINE_PX, FONT_PX = 8, 17, 13
CHARACTERS, NAME_CHARACTERS = 40, 36  # of a line below a picture; names have many digits, which are wide
MOST_LINES = 3  # of one text below a picture
_TINT = 0.5  # how much of a mask's colour hides the picture
_NAMED_PX = 40  # narrower boxes have no room for the names of their classes
_SHADES = ((0.85, 1.0), (0.9, 0.65), (0.45, 0.95))  # saturation and value
_INK, _FAINT, _WRONG = (20, 20, 20), (120, 120, 120), (200, 30, 30)

Colour = tuple[int, int, int]
Picture = UInt8[np.ndarray, "H W 3"]


class Tile(NamedTuple):
    """A picture, and lines of text below it, each with its colour."""

    picture: Picture
    lines: tuple[tuple[str, Colour], ...] = ()


def colour(number: int) -> Colour:
    """A colour for a class; those of neighbouring numbers are far apart."""
    hue = (0.02 + number * 0.618034) % 1  # the golden ratio never comes back to a hue
    return tuple(round(255 * x) for x in colorsys.hsv_to_rgb(hue, *_SHADES[number % len(_SHADES)]))


def cell(picture: Picture) -> Picture:
    """The picture with a longer side of at most CELL_PX; a small one is enlarged by a whole factor."""
    small = fit(picture, CELL_PX)
    factor = max(1, CELL_PX // max(small.shape[:2]))
    return small.repeat(factor, 0).repeat(factor, 1)


def tinted(picture: Picture, mask: UInt8[np.ndarray, "h w"], colours: Mapping[int, Colour]) -> Picture:
    """The picture in the colours of its mask; classes without a colour stay as they are."""
    mask = cv2.resize(mask, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    tinted = picture.copy()
    for label, tint in colours.items():
        inside = mask == label
        tinted[inside] = np.round(picture[inside] * (1 - _TINT) + np.array(tint) * _TINT)
    return tinted


def boxed(
    picture: Picture, boxes: Float[np.ndarray, "M 4"], names: Sequence[str], colours: Sequence[Colour]
) -> Picture:
    """The picture with its boxes, and the names of their classes where there is room."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    height, width = picture.shape[:2]
    for (y0, x0, y1, x1), name, ink in zip(np.asarray(boxes).tolist(), names, colours):
        left, top, right, bottom = x0 * width, y0 * height, x1 * width - 1, y1 * height - 1
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=ink, width=2)
        if right - left >= _NAMED_PX:
            draw.rectangle((left, top, left + draw.textlength(name, _font()) + 4, top + 15), fill=ink)
            draw.text((left + 2, top), name, _legible_on(ink), _font())
    return np.asarray(image)


def wrapped(text: str, ink: Colour = _INK) -> tuple[tuple[str, Colour], ...]:
    """A text as lines below a picture; of a long one the beginning."""
    lines = textwrap.wrap(text, CHARACTERS, max_lines=MOST_LINES, placeholder=" ...", break_on_hyphens=False)
    return tuple((line, ink) for line in lines)


def ending(name: str) -> tuple[tuple[str, Colour], ...]:
    """A name as one line below a picture; of a long one the end, which tells it from others."""
    return ((name if len(name) <= NAME_CHARACTERS else f"...{name[3 - NAME_CHARACTERS :]}", _FAINT),)


def wrong(reason: str, name: str) -> Tile:
    """In place of a picture that cannot be used, why."""
    image = Image.new("RGB", (CELL_PX, CELL_PX), (235, 235, 235))
    draw = ImageDraw.Draw(image)
    draw.text((8, 8), "cannot be used", _WRONG, _font())
    for number, line in enumerate(textwrap.wrap(reason, NAME_CHARACTERS)[:12], 2):
        draw.text((8, 8 + number * LINE_PX), line, _WRONG, _font())
    return Tile(np.asarray(image), ending(name))


def sheet(title: str, rows: Sequence[Sequence[Tile]], legend: Mapping[str, Colour]) -> Picture:
    """One picture with a title, the rows of tiles, and below them what the colours mean."""
    columns = max(map(len, rows))
    width = GAP_PX + max(2, columns) * (CELL_PX + GAP_PX)
    title_lines = textwrap.wrap(title, width // 7)
    heights = [max(map(_height, row)) for row in rows]
    entries = _legend_places(legend, width)
    below = (entries[-1][1] + LINE_PX + GAP_PX) if entries else 0
    top = GAP_PX + len(title_lines) * LINE_PX + GAP_PX
    image = Image.new("RGB", (width, top + sum(heights) + below), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(title_lines):
        draw.text((GAP_PX, GAP_PX + number * LINE_PX), line, _INK, _font())
    for row, height in zip(rows, heights):
        for number, tile in enumerate(row):
            _put(image, draw, tile, GAP_PX + number * (CELL_PX + GAP_PX), top)
        top += height
    for left, down, name in entries:
        draw.rectangle((left, top + down + 2, left + 12, top + down + 14), fill=legend[name])
        draw.text((left + 17, top + down), name, _INK, _font())
    return np.asarray(image)


def _height(tile: Tile) -> int:
    return tile.picture.shape[0] + len(tile.lines) * LINE_PX + 2 * GAP_PX


def _put(image: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int) -> None:
    image.paste(Image.fromarray(tile.picture), (left, top))
    for number, (line, ink) in enumerate(tile.lines):
        draw.text((left, top + tile.picture.shape[0] + 2 + number * LINE_PX), line, ink, _font())


def _legible_on(ground: Colour) -> Colour:
    return _INK if np.dot(ground, (0.299, 0.587, 0.114)) > 140 else (255, 255, 255)


def _legend_places(legend: Mapping[str, Colour], width: int) -> list[tuple[int, int, str]]:
    """(left, down, name) of each entry."""
    places, left, down = [], GAP_PX, 0
    for name in legend:
        needed = 17 + round(_font().getlength(name)) + 2 * GAP_PX
        if left + needed > width and left > GAP_PX:
            left, down = GAP_PX, down + LINE_PX
        places.append((left, down, name))
        left += needed
    return places


def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(FONT_PX)
