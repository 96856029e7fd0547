"""What the records of a split hold, counted in one pass that decodes each of them.

About 40 bytes a picture stay in memory; what is counted is counted as it comes.
"""

import io
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8, UInt64
from PIL import Image

from vitjax.data import contents, duplicates
from vitjax.data.bad_records import BadRecords
from vitjax.data.decode import decode
from vitjax.data.examples import BAD, OUTSIDE, whole_mask
from vitjax.data.sources import Source

SMALL, LARGE = 32**2, 96**2  # pixels of COCO's small and large boxes


class Seen(NamedTuple):
    """One record, looked at; `height` is 0 where it cannot be used."""

    index: int
    height: int = 0
    width: int = 0
    bytes: int = 0
    form: str = ""  # of the file, as 'JPEG RGB'
    content: UInt64[np.ndarray, "2"] | None = None
    likeness: np.uint64 = np.uint64(0)
    record: dict[str, Any] = {}
    mask: Int[np.ndarray, "256"] | None = None  # pixels of each class


class Audit:
    """The sums over the records of one split.

    Attributes:
      height, width, bytes: of each picture, 0 for a bad one.
      content, likeness: of each picture, see `duplicates`.
      labels: field -> how many records have each class, the last being those without one.
      forms: how many files are of each format and mode.
      captions: how many captions a record has -> how many records.
      caption_characters: the lengths of captions -> how many captions.
      boxes: how many boxes a record has -> how many records.
      box_labels, box_sizes: how many boxes of each class, and 'small', 'medium', 'large' by COCO's sizes.
      masks, mask_pixels: how many records have a mask, and how many pixels each class has.
      bad: the records that cannot be used.
    """

    def __init__(self, source: Source, max_pixels: int):
        count = len(source)
        self.source = source
        self.height, self.width = np.zeros(count, np.int32), np.zeros(count, np.int32)
        self.bytes = np.zeros(count, np.int64)
        self.content, self.likeness = np.zeros((count, 2), np.uint64), np.zeros(count, np.uint64)
        self.labels: dict[str, Counter] = {}
        self.forms, self.captions, self.caption_characters = Counter(), Counter(), Counter()
        self.boxes, self.box_labels, self.box_sizes = Counter(), Counter(), Counter()
        self.masks, self.mask_pixels = 0, np.zeros(256, np.int64)
        self.bad = BadRecords(None, source, lambda index: look(source, index, max_pixels))

    @property
    def good(self) -> np.ndarray:
        """Which pictures could be used."""
        return self.height > 0

    def add(self, seen: Seen) -> None:
        """Counts a record."""
        if not seen.height:
            self.bad.add([seen.index])
            return
        i, record = seen.index, seen.record
        self.height[i], self.width[i], self.bytes[i] = seen.height, seen.width, seen.bytes
        self.content[i], self.likeness[i] = seen.content, seen.likeness
        self.forms[seen.form] += 1
        for field, value in record.items():
            if field.split("/")[0] == "label":
                self.labels.setdefault(field, Counter())[value] += 1
        if "text" in record:
            self.captions[len(record["text"])] += 1
            self.caption_characters.update(map(len, record["text"]))
        if "boxes" in record:
            self._add_boxes(record, seen.height * seen.width)
        if seen.mask is not None:
            self.masks += 1
            self.mask_pixels += seen.mask

    def _add_boxes(self, record: dict[str, Any], pixels: int) -> None:
        boxes = np.asarray(record["boxes"], np.float64).reshape(-1, 4)
        self.boxes[len(boxes)] += 1
        self.box_labels.update(np.asarray(record["box_label"]).tolist())
        areas = pixels * (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        sizes = np.searchsorted([SMALL, LARGE], areas.round(), side="right")  # float32 is a little off
        self.box_sizes.update(("small", "medium", "large")[k] for k in sizes)


def audit(source: Source, max_pixels: int, progress: Callable[[int], None]) -> Audit:
    """All records of a source, counted; `progress` is told after each how many were."""
    found = Audit(source, max_pixels)

    def seen(index: int) -> Seen:
        try:
            return look(source, index, max_pixels)
        except BAD:
            return Seen(index)

    for done, one in enumerate(contents.in_threads(seen, range(len(source))), 1):
        found.add(one)
        progress(done)
    return found


def look(source: Source, index: int, max_pixels: int) -> Seen:
    """One record.

    Raises:
      Undecodable, OSError: it cannot be used in training.
    """
    record = source[index]
    image = record.pop("image")
    picture = decode(image, max_pixels)
    mask = record.pop("mask", None)
    if mask is not None:
        mask = np.bincount(whole_mask(mask, picture.shape[:2], max_pixels).ravel(), minlength=OUTSIDE + 1)
    size = image.nbytes if isinstance(image, np.ndarray) else len(image)
    content, likeness = duplicates.content_hash(image), duplicates.perceptual_hash(picture)
    return Seen(index, *picture.shape[:2], size, _form(image), content, likeness, record, mask)


def _form(image: bytes | UInt8[np.ndarray, "H W 3"]) -> str:
    if isinstance(image, np.ndarray):
        return "array RGB"
    with Image.open(io.BytesIO(image)) as opened:
        return f"{opened.format} {opened.mode}"
