"""Pictures of pictures: grids to look at, written as PNG."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

GAP_PX = 2
LEAST_PX = 64  # smaller pictures are enlarged by a whole factor, so that a 32 px run can be looked at


def grid(
    rows: Sequence[UInt8[np.ndarray, "B H W C"]], least_px: int = LEAST_PX
) -> UInt8[np.ndarray, "Y X 3"]:
    """One picture with every item of `rows` as a line of pictures, on white.

    Lines may differ in number and size of pictures; grey ones (C = 1) become RGB. Enlarging repeats
    pixels, so that nothing is shown that is not in the data.
    """
    lines = [_line(np.asarray(row), least_px) for row in rows]
    width = max(line.shape[1] for line in lines)
    out = []
    for line in lines:
        out += [_white(GAP_PX, width), np.concatenate([line, _white(len(line), width - line.shape[1])], 1)]
    return np.concatenate([*out, _white(GAP_PX, width)])


def save_png(path: str | Path, image: UInt8[np.ndarray, "H W 3"]) -> Path:
    """The file's path, once it is written whole; its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    Image.fromarray(np.asarray(image)).save(unfinished, format="PNG")
    return unfinished.replace(path)


def _line(pictures: UInt8[np.ndarray, "B H W C"], least_px: int) -> UInt8[np.ndarray, "Y X 3"]:
    if pictures.dtype != np.uint8 or pictures.ndim != 4:
        raise TypeError(f"grid takes uint8 [B, H, W, C], not {pictures.dtype} {pictures.shape}")
    factor = max(1, -(-least_px // min(pictures.shape[1:3])))
    pictures = pictures.repeat(factor, 1).repeat(factor, 2)
    pictures = np.broadcast_to(pictures, (*pictures.shape[:3], 3))
    gap = _white(pictures.shape[1], GAP_PX)
    return np.concatenate([part for picture in pictures for part in (gap, picture)] + [gap], 1)


def _white(height: int, width: int) -> UInt8[np.ndarray, "H W 3"]:
    return np.full((height, width, 3), 255, np.uint8)
