"""The record of vitjax's own files: one msgpack map.

A map has the fields of `sources.Source`: 'image' (the bytes of a picture file), 'label' and 'label/<field>' (whole
numbers, -1 where there is none), 'text' (a list of captions), 'boxes' (a list of [y0, x0, y1, x1] in 0..1) with
'box_label', 'mask' (the bytes of a PNG of one channel), and 'name', what a person calls the picture. Any msgpack
library writes and reads them. `records.json` beside the files says once what all of them have in common.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

from vitjax.data import cache, captions, files
from vitjax.data.decode import Undecodable
from vitjax.errors import UserError

DESCRIPTION = "records.json"


class Description(NamedTuple):
    """What the records of a set have in common, in all of its splits."""

    class_names: Mapping[str, Sequence[str]]  # as `Source.class_names`
    fields: Sequence[str]  # what a record has
    counts: Mapping[str, int]  # records of each split


def encode(record: Mapping[str, Any]) -> bytes:
    """The record as bytes; boxes may be an array.

    Lone surrogates in texts, which UTF-8 cannot say, are replaced.
    """
    return msgpack.packb(record, default=_plain, use_single_float=True, unicode_errors="replace")


def decode(data: bytes) -> dict[str, Any]:
    """The record, with the kinds of values that `sources.Source` describes.

    Nothing is executed, and no more memory is taken than the bytes account for. Fields of other names are left out.

    Raises:
      Undecodable: not a msgpack map, or a field is of the wrong kind.
    """
    try:
        record = msgpack.unpackb(data, unicode_errors="replace")
        if not isinstance(record, dict):
            raise Undecodable(f"a record of kind {type(record).__name__} is no map")
        return {name: _value(name, value) for name, value in record.items() if _is_field(name)}
    except Undecodable:
        raise
    except Exception as error:  # msgpack's own kinds, and numpy's for what is no array
        raise Undecodable(f"the record is damaged: {type(error).__name__}: {error}") from error


def write_description(folder: str, description: Description) -> None:
    """Puts `records.json` into the local folder of a set, as a whole.

    Raises:
      OSError: the folder cannot be written.
    """
    text = json.dumps(description._asdict(), indent=1, ensure_ascii=False, default=list)
    cache.put(Path(folder) / DESCRIPTION, text.encode())


def read_description(folder: str) -> Description | None:
    """What `records.json` in `folder` (or at its URL) says; None where there is none.

    Raises:
      UserError: it is damaged.
    """
    path = files.join(folder, DESCRIPTION)
    try:
        found = json.loads(files.read(path))
        names = {field: tuple(map(str, names)) for field, names in found["class_names"].items()}
        return Description(names, tuple(found["fields"]), dict(found["counts"]))
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); write the set again, or remove this file: "
            "classes are then named by their numbers"
        ) from error


def _is_field(name: Any) -> bool:
    return name in _KINDS or (isinstance(name, str) and name.startswith("label/"))


def _value(name: str, value: Any) -> Any:
    """The value of a field, checked."""
    kind = _KINDS.get(name, int)
    if name == "mask" and value is None:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Undecodable(f"the field {name!r} is of kind {type(value).__name__}")
    if name == "text":
        return captions.clean(value)
    if name == "boxes":
        return np.array(value, np.float32).reshape(-1, 4)
    if name == "box_label":
        return np.array(value, np.int32).reshape(-1)
    return value


# What msgpack has for each field.
_KINDS = {
    "image": bytes,
    "label": int,
    "text": list,
    "boxes": list,
    "box_label": list,
    "mask": bytes,
    "name": str,
}


def _plain(value: Any) -> Any:
    """Numpy's arrays and numbers as msgpack has them."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no place in a record")
