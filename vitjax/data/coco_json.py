"""COCO's annotation files, read into arrays.

The file of COCO's own training split has 450 MB, most of them outlines. Each annotation is reduced to its numbers as
soon as it is parsed, so that what is held beside the text is small.
"""

import json
import re
from array import array
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from vitjax.data import captions, files
from vitjax.data.strings import Strings
from vitjax.errors import UserError

_CATEGORIES = re.compile(rb'"categories"\s*:\s*(?=\[)')
_CATEGORIES_BYTES = 8 << 20  # more than any list of classes takes


class Annotations(NamedTuple):
    """What a file says of N pictures, M boxes and T captions; an owner is the number of the picture, or -1."""

    names: Strings  # of the pictures' files
    size: Float[np.ndarray, "N 2"]  # height and width, 0 where the file does not say
    owner: Int[np.ndarray, " M"]
    category: list  # its id, of each box
    xywh: Float[np.ndarray, "M 4"]  # pixels, as they stand
    is_crowd: Bool[np.ndarray, " M"]
    text_owner: Int[np.ndarray, " T"]
    texts: Strings


class Boxes(NamedTuple):
    """The boxes that can be used, those of picture i being starts[i] to starts[i + 1]."""

    boxes: Float32[np.ndarray, "K 4"]
    label: Int32[np.ndarray, " K"]
    starts: Int[np.ndarray, " N1"]
    left_out: dict[str, int]  # how many boxes, by the reason
    cut: int  # boxes that reached out of their picture


def read(path: str) -> Annotations:
    """All that is used of a file.

    Raises:
      UserError: it cannot be read, is not JSON, or not COCO's.
    """
    reduced = _Reduced()
    try:
        whole = json.loads(files.read_named(path), object_hook=reduced)
        images = [image for image in whole["images"] if isinstance(image, _Image)]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); allow it, or give another path") from error
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not an annotation file of COCO's form, with a list 'images' ({type(error).__name__}: {error})"
        ) from error
    number = {image.id: i for i, image in enumerate(images)}
    if len(number) < len(images):
        raise UserError(f"{path}: two of its images have the same id; give each its own")
    return Annotations(
        Strings(image.file_name for image in images),
        np.array([image.size for image in images], np.float64).reshape(-1, 2),
        np.array([number.get(owner, -1) for owner in reduced.owner], np.int64),
        reduced.category,
        np.array(reduced.xywh).reshape(-1, 4),
        np.array(reduced.is_crowd, bool),
        np.array([number.get(owner, -1) for owner in reduced.text_owner], np.int64),
        reduced.texts,
    )


def categories(path: str) -> dict[int, str]:
    """{id: name} of a file's classes, without parsing the rest of it.

    Raises:
      UserError: it cannot be read, or has none.
    """
    try:
        data = files.read(path)
        found = _CATEGORIES.search(data)
        listed = data[found.end() : found.end() + _CATEGORIES_BYTES].decode("utf-8", "replace")
        return {int(c["id"]): str(c["name"]) for c in json.JSONDecoder().raw_decode(listed)[0]}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); allow it, or give another path") from error
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} has no list 'categories' of ids and names, as COCO's form has") from error


def usable(found: Annotations, label_of: dict[int, int]) -> Boxes:
    """The boxes as (y0, x0, y1, x1) in 0..1.

    Left out are crowds (a region that holds many objects is none), boxes of pictures or categories that the file does
    not list, those that are not finite, and those that are empty or outside of their picture. One that reaches
    out of it is cut.

    Args:
      label_of: the number of each category's id.
    """
    label = np.array([label_of.get(category, -1) for category in found.category], np.int32)
    size = found.size[found.owner] if len(found.size) else np.zeros((len(found.owner), 2))
    with np.errstate(all="ignore"):
        corner, extent = found.xywh[:, 1::-1], found.xywh[:, :1:-1]
        whole = (np.concatenate([corner, corner + extent], 1) / np.tile(size, 2)).astype(np.float32)
        boxes = np.clip(whole, 0, 1)
        # Pictures without a size make these NaN, and are bad records in the end.
        is_finite = np.isfinite(found.xywh).all(1) & np.isfinite(whole).all(1)
        is_empty = (boxes[:, 2:] <= boxes[:, :2]).any(1) | (extent <= 0).any(1)
    reasons = {
        "of crowds": found.is_crowd,
        "of pictures that are not listed": found.owner < 0,
        "of categories that are not listed": label < 0,
        "not finite": ~is_finite,
        "empty or outside of the picture": is_empty,
    }
    left_out, kept = {}, np.ones(len(boxes), bool)
    for reason, which in reasons.items():
        left_out[reason] = int((kept & which).sum())
        kept &= ~which
    cut = int((np.abs(whole - boxes)[kept] > 0).any(1).sum())
    order = np.flatnonzero(kept)[np.argsort(found.owner[kept], kind="stable")]
    return Boxes(boxes[order], label[order], starts(found.owner[order], len(found.size)), left_out, cut)


def starts(owners: Int[np.ndarray, " M"], count: int) -> Int[np.ndarray, " N1"]:
    """Where the part of each of `count` owners begins, and the last one ends, in owners that are sorted."""
    return np.searchsorted(owners, np.arange(count + 1))


class _Image(NamedTuple):
    id: Any
    file_name: str
    size: tuple[float, float]


class _Reduced:
    """The hook of the JSON parser that keeps of each object only what is used."""

    def __init__(self):
        self.owner: list = []
        self.category: list = []
        self.xywh, self.is_crowd = array("d"), bytearray()
        self.text_owner: list = []
        self.texts = Strings()

    def __call__(self, found: dict[str, Any]) -> Any:
        if "image_id" in found:
            if "bbox" in found:
                self._add_box(found)
            for text in captions.clean(found.get("caption")):
                self.text_owner.append(_key(found["image_id"]))
                self.texts.append(text)
            return None
        if isinstance(found.get("file_name"), str):
            size = _numbers([found.get("height"), found.get("width")], 2)
            return _Image(_key(found.get("id")), found["file_name"], tuple(size))
        return found

    def _add_box(self, found: dict[str, Any]) -> None:
        self.owner.append(_key(found["image_id"]))
        self.category.append(_key(found.get("category_id")))
        self.xywh.extend(_numbers(found["bbox"], 4))
        self.is_crowd.append(found.get("iscrowd") in (1, True))


def _key(value: Any) -> int | str | None:
    """An id; None for what cannot be one."""
    return value if isinstance(value, int | str) else None


def _numbers(values: Any, count: int) -> list[float]:
    """So many numbers, all NaN where there are others."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    return numbers if len(numbers) == count else [float("nan")] * count
