"""One record as arrays: the picture in its frame, and beside it the fields that were asked for.

What is ragged in a source has a number of slots in a batch: `text` [C, L] with `text_valid`, `boxes` [M, 4] with
`box_label` and `box_valid`, and `mask` [H, W] on the picture's own canvas.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from vitjax.data import tokenize
from vitjax.data.decode import MAX_PIXELS, Undecodable, decode, decode_mask, fit, random_crop
from vitjax.data.sources import Source
from vitjax.data.tokenize import Tokenizer
from vitjax.errors import UserError

Spec = dict[str, tuple[tuple[int, ...], np.dtype]]

FIELDS = ("text", "boxes", "mask")  # beside the labels
BAD = (Undecodable, OSError)
MAX_FAILURES = 64  # undecodable records in a row that mean 'the data is broken'
OUTSIDE = 255  # in a mask, where there is no picture or nobody knows
# What a slot holds that is not used; other numbers that stand alone (labels) have -1, other arrays 0.
BLANK = {"mask": OUTSIDE, "box_label": -1}
REPLACED = "\ufffd"  # what sources put where the bytes of a text are no UTF-8

_CROP, _CAPTIONS = 0, 1  # streams of a position's random numbers
_log = logging.getLogger(__name__)


class Framing(NamedTuple):
    """How a decoded picture becomes an array on the host.

    crop 'device': the whole picture, its longer side at most `edge_px`. 'host': a random crop of
    `edge_px` x `edge_px`.
    """

    crop: str
    edge_px: int
    crop_area: tuple[float, float] = (1.0, 1.0)
    crop_aspect: tuple[float, float] = (1.0, 1.0)
    resize: str = "bilinear"
    seed: int = 0

    def __call__(
        self, picture: UInt8[np.ndarray, "H W 3"], position: int | None
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The framed picture; its randomness depends on (seed, position) alone, not on who decodes it."""
        if self.crop == "device":
            return fit(picture, self.edge_px)
        rng = self.rng(position, _CROP)
        return random_crop(picture, rng, self.edge_px, self.crop_area, self.crop_aspect, self.resize)

    def rng(self, position: int, stream: int) -> np.random.Generator:
        """The random numbers of a position of the order, for one use."""
        return np.random.Generator(np.random.Philox(key=[word(self.seed), position], counter=[0, 0, 0, stream]))


class Form(NamedTuple):
    """The slots that a picture's fields have, and what it may weigh.

    In training `captions` of a picture's captions are drawn, in evaluation the first ones are taken. Of more boxes
    than `max_boxes` the first ones stay.
    """

    tokenizer: Tokenizer = tokenize.of_bytes(77)
    captions: int = 1
    max_boxes: int = 100
    max_pixels: int = MAX_PIXELS


class Reader:
    """Records of `source` as arrays, none larger than its slot in `spec`.

    Args:
      fields: names of labels, of FIELDS, and of arrays that have the same shape in every record.

    Raises:
      UserError: the source has no such field, it is not made of numbers, or it cannot be cropped on the host.
    """

    def __init__(self, source: Source, framing: Framing, fields: tuple[str, ...], form: Form = Form()):  # noqa: B008
        refuse_uncropped(fields, framing.crop)
        self.source, self.framing, self._form = source, framing, form
        self.spec = record_spec(source, fields, framing.edge_px, form)
        self.numbers = tuple(name for name in fields if name not in FIELDS and not self.spec[name][0])
        self.padded = tuple(name for name in fields if name not in self.numbers)
        self._told: set[str] = set()

    def __call__(self, index: int, position: int | None = None) -> dict[str, Any]:
        """Record `index` at this position of a training order; None stands for no drawing.

        Raises:
          Undecodable, OSError: the picture or a field cannot be used.
        """
        record = self.source[index]
        whole = decode(record["image"], self._form.max_pixels)
        image = self.framing(whole, position)
        arrays = {"image": image, "size": image.shape[:2]} | {name: record[name] for name in self.numbers}
        if self.padded:
            arrays |= self.padded_fields(record, index, position, whole.shape[:2], image.shape[:2])
        return arrays

    def padded_fields(
        self,
        record: Mapping[str, Any],
        index: int,
        position: int | None,
        whole: tuple[int, int],
        framed: tuple[int, int],
    ) -> dict[str, Any]:
        """The fields of `record` that are more than a number.

        Args:
          whole: (height, width) of its picture.
          framed: what became of them in the batch.

        Raises:
          Undecodable: a field cannot be used.
        """
        arrays = {}
        for name in self.padded:
            if name == "text":
                arrays |= self._text(record["text"], index, position)
            elif name == "boxes":
                arrays |= self._boxes(record["boxes"], record["box_label"], index)
            elif name == "mask":
                arrays |= self._mask(record["mask"], whole, framed)
            else:
                arrays[name] = self._array(name, record[name], index)
        return arrays

    def _text(self, captions: Sequence[str], index: int, position: int | None) -> dict[str, Any]:
        count = self._form.captions
        if any(REPLACED in caption for caption in captions):
            self._tell(index, "a caption that is no UTF-8, in which U+FFFD stands for what is invalid")
        if len(captions) > count and position is not None:
            rng = self.framing.rng(position, _CAPTIONS)
            captions = [captions[i] for i in rng.choice(len(captions), count, replace=False)]
        if not len(captions):
            return {}
        text = np.stack([self._form.tokenizer.encode(caption) for caption in captions[:count]])
        return {"text": text, "text_valid": np.ones(len(text), bool)}

    def _boxes(self, boxes: Any, labels: Any, index: int) -> dict[str, Any]:
        boxes, labels = np.asarray(boxes, np.float32), np.asarray(labels, np.int32)
        if boxes.shape != (*labels.shape, 4) or labels.ndim != 1:
            raise Undecodable(f"boxes of shape {boxes.shape} and their labels of shape {labels.shape} do not fit")
        if not np.isfinite(boxes).all():
            raise Undecodable("a box is not made of finite numbers")
        boxes, count = boxes.clip(0, 1), self._form.max_boxes
        kept = _usable(boxes, labels, self.source.class_names.get("box_label"))
        boxes, labels = boxes[kept], labels[kept]
        if not kept.all():
            self._tell(index, "boxes that are empty, outside of their picture or of no class, which are left out")
        if len(boxes) > count:
            self._tell(index, f"more boxes than config.data.max_boxes={count}, of which the first are kept")
        boxes, labels = boxes[:count], labels[:count]
        return {"boxes": boxes, "box_label": labels, "box_valid": np.ones(len(boxes), bool)}

    def _tell(self, index: int, what: str) -> None:
        """Warns, once, of what this picture has."""
        if what not in self._told:
            self._told.add(what)
            _log.warning("%s, and maybe others, has %s", self.source.name(index), what)

    def _mask(self, mask: Any, whole: tuple[int, int], framed: tuple[int, int]) -> dict[str, Any]:
        if mask is None:  # this picture has none
            return {}
        mask = whole_mask(mask, whole, self._form.max_pixels)
        return {"mask": cv2.resize(mask, framed[::-1], interpolation=cv2.INTER_NEAREST_EXACT)}

    def _array(self, name: str, value: Any, index: int) -> Any:
        shape = self.spec[name][0]
        # One row would be repeated to fill many.
        if shape and np.shape(value) != shape:
            raise UserError(
                f"the field {name!r} has shape {np.shape(value)} in {self.source.name(index)} "
                f"and {shape} in the first record; a source must pad it to one shape"
            )
        return value


def _usable(
    boxes: Float32[np.ndarray, "M 4"], labels: Int32[np.ndarray, " M"], classes: Sequence[str] | None
) -> Bool[np.ndarray, " M"]:
    """Which boxes, cut to the picture, are more than a line and of one of the classes."""
    known = (labels >= 0) & (labels < len(classes)) if classes else labels >= 0
    return (boxes[:, 2:] > boxes[:, :2]).all(1) & known


def whole_mask(
    mask: bytes | UInt8[np.ndarray, "H W"], whole: tuple[int, int], max_pixels: int
) -> UInt8[np.ndarray, "H W"]:
    """The class of each pixel, of a picture of (height, width) `whole`.

    Raises:
      Undecodable: it is damaged, or of another size.
    """
    mask = decode_mask(mask, max_pixels) if isinstance(mask, bytes) else mask
    if mask.shape != whole or mask.dtype != np.uint8:
        (height, width), said = whole, " x ".join(map(str, mask.shape))
        raise Undecodable(f"the mask is {mask.dtype} of {said} pixels, and the upright picture {height} x {width}")
    return mask


def refuse_uncropped(fields: tuple[str, ...], crop: str) -> None:
    """Raises:
    UserError: the host crops, and fields are asked for that would have to be cropped with the picture.
    """
    uncropped = tuple(name for name in ("boxes", "mask") if name in fields)
    if crop == "host" and uncropped:
        raise UserError(
            f"config.data.fields={uncropped} with config.data.crop='host': boxes and masks are of the whole picture; "
            "use config.data.crop='device'"
        )


def record_spec(source: Source, fields: tuple[str, ...], edge_px: int, form: Form) -> Spec:
    """{name: (shape, dtype)} of the slots of one record, found by looking at the first that can be read.

    Raises:
      UserError: the source has no such field, or the field is not made of numbers.
    """
    record = first_readable(source) if fields else {}
    spec: Spec = {}
    for name in fields:
        if name not in record:
            there = ", ".join(sorted(set(record) - {"image"})) or "none"
            raise UserError(f"the field {name!r} is not in {source!r}; its fields are: {there}")
        if name == "text":
            spec["text"] = ((form.captions, len(form.tokenizer.encode(""))), np.dtype(np.int32))
            spec["text_valid"] = ((form.captions,), np.dtype(bool))
        elif name == "boxes":
            spec["boxes"] = ((form.max_boxes, 4), np.dtype(np.float32))
            spec["box_label"] = ((form.max_boxes,), np.dtype(np.int32))
            spec["box_valid"] = ((form.max_boxes,), np.dtype(bool))
        elif name == "mask":
            spec["mask"] = ((edge_px, edge_px), np.dtype(np.uint8))
        else:
            spec[name] = _slot(name, np.asarray(record[name]), source)
    return spec


def _slot(name: str, value: np.ndarray, source: Source) -> tuple[tuple[int, ...], np.dtype]:
    """Float32 and, for numbers alone, int32; arrays of whole numbers keep their small type."""
    if value.dtype.kind not in "biuf":
        raise UserError(f"the field {name!r} of {source!r} is not made of numbers and cannot be batched")
    if value.dtype.kind == "f":
        return value.shape, np.dtype(np.float32)
    if value.ndim == 0 or value.dtype == np.int64:
        return value.shape, np.dtype(np.int32)
    return value.shape, value.dtype


def first_readable(source: Source) -> dict[str, Any]:
    """The first record that can be read, of those that would stand in for record 0.

    Raises:
      UserError: none can.
    """
    tried = min(MAX_FAILURES, len(source))
    for attempt in range(tried):
        try:
            return source[substitute(0, attempt, range(len(source)))]
        except BAD:
            continue
    raise UserError(f"none of {tried} records of {source!r} can be read")


def substitute(wanted: int, attempt: int, records: range) -> int:
    """The record of `records` that is tried in place of `wanted`, which is attempt 0.

    Steps of about 0.618 of the set lead away from a folder or a shard that is broken as a whole, and never
    come back to a record before all were tried.
    """
    count = len(records)
    step = max(1, round(0.618 * count))
    while math.gcd(step, count) > 1:
        step += 1
    return records[(wanted - records.start + attempt * step) % count]


def word(seed: int) -> int:
    """The seed as 64 bits without a sign."""
    return seed % 2**64
