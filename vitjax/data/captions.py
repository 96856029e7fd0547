"""Captions as sources find them, made into what a record holds."""

import codecs
from collections.abc import Iterable
from typing import Any

from vitjax.data import files

MAX_CHARACTERS = 10_000  # of one caption: no model reads as much, and a web page taken for a caption is a megabyte
MAX_BYTES = 1 << 20  # of a text file with captions


def clean(values: Any) -> tuple[str, ...]:
    """The captions among `values` (one, several or none), trimmed; those that are empty or no text are left out.

    Bytes are UTF-8 in which what is invalid is replaced, and so are halves of surrogate pairs in a str. A caption ends
    after MAX_CHARACTERS.
    """
    if values is None or isinstance(values, str | bytes):
        values = (values,)
    if not isinstance(values, Iterable):
        return ()
    return tuple(text for text in map(_text, values) if text)


def lines(path: str) -> tuple[str, ...]:
    """The captions in a text file, one a line; what comes after MAX_BYTES is left out.

    Raises:
      OSError: the file cannot be read.
    """
    length = min(files.size(path), MAX_BYTES)
    data = files.read(path, 0, length) if length else b""  # stores refuse an empty range
    return clean(data.removeprefix(codecs.BOM_UTF8).splitlines())


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value[: 4 * MAX_CHARACTERS].decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    text = value[: 4 * MAX_CHARACTERS].strip()[:MAX_CHARACTERS]
    return text.encode("utf-8", "replace").decode()
