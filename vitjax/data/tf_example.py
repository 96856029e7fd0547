"""Records that others wrote as `tf.train.Example`, read without TensorFlow."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vitjax.data import captions
from vitjax.data.decode import Undecodable
from vitjax.errors import UserError

# The usual names, of which the first that a record has is taken.
IMAGE = ("image/encoded", "image", "image_raw", "jpg", "png")
LABEL = ("image/class/label", "label", "image/class/text", "class")
TEXT = ("caption", "text", "captions", "captions/text", "image/caption", "image/captions")
_NAME = ("image/filename", "filename", "file_name")


class Columns(NamedTuple):
    """The features of a record that are used, by the names of its fields; '' and {} where it has none."""

    image: str
    labels: Mapping[str, str]
    text: tuple[str, ...] = ()
    boxes: str = ""  # (y0, x0, y1, x1) in 0..1, one box after the other
    box_label: str = ""


def is_example(data: bytes) -> bool:
    """Whether a record is an Example: it begins with the tag of its only field, as no map of msgpack does."""
    return data[:1] == b"\n"


def parse(data: bytes) -> dict[str, list]:
    """{feature: its list of bytes, float or int}.

    Raises:
      Undecodable: it is no Example.
    """
    # These take a second to load, and few sets need them.
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        features = tf_example_pb2.Example.FromString(data).features.feature
    except DecodeError as error:
        raise Undecodable(f"not a tf.train.Example: {error}") from error
    found = {}
    for name, feature in features.items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found


def columns_of(data: bytes, image: str, labels: tuple[str, ...], text: tuple[str, ...]) -> Columns:
    """Which features hold what in a record: those that were named, else those of the usual names.

    One label is the field 'label', several are 'label/<feature>'.

    Raises:
      UserError: a feature that was named is not there.
      Undecodable: it is no Example.
    """
    there = parse(data)
    for key, names in (("image_column", (image,)), ("label_columns", labels), ("text_columns", text)):
        missing = [name for name in names if name and name not in there]
        if missing:
            raise UserError(
                f"config.data.{key}={missing[0]!r} is not in the records, which have {', '.join(sorted(there))}"
            )
    image = image or _first(there, IMAGE)
    labels = labels or tuple(filter(None, [_first(there, LABEL)]))
    text = text or tuple(filter(None, [_first(there, TEXT)]))
    fields = {name: name if name.startswith("label/") else f"label/{name}" for name in labels}
    return Columns(image, {"label": labels[0]} if len(labels) == 1 else {f: n for n, f in fields.items()}, text)


def decode(data: bytes, columns: Columns) -> dict[str, Any]:
    """The record; a label is an int, or a str that is the name of its class, or None.

    Raises:
      Undecodable: it is no Example, or has no picture.
    """
    there = parse(data)
    image = there.get(columns.image)
    if not image or not isinstance(image[0], bytes):
        raise Undecodable(f"no picture in {columns.image!r}; the record has {', '.join(sorted(there))}")
    record: dict[str, Any] = {"image": image[0]}
    for field, name in columns.labels.items():
        record[field] = _label(there.get(name))
    if columns.text:
        record["text"] = sum((captions.clean(there.get(name)) for name in columns.text), ())
    if columns.boxes:
        record |= _boxes(there.get(columns.boxes, ()), there.get(columns.box_label, ()))
    name = _first(there, _NAME)
    if name:
        record["name"] = " ".join(captions.clean(there[name]))
    return record


def _first(there: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in there), "")


def _boxes(corners: Sequence[float], labels: Sequence[int]) -> dict[str, np.ndarray]:
    try:
        boxes, labels = np.array(corners, np.float32).reshape(-1, 4), np.array(labels, np.int32)
    except (ValueError, OverflowError) as error:
        raise Undecodable(f"boxes that are none: {error}") from error
    return {"boxes": boxes, "box_label": labels}


def _label(values: list | None) -> int | str | None:
    if not values or isinstance(values[0], float):
        return None
    return values[0].decode("utf-8", "replace") if isinstance(values[0], bytes) else values[0]
