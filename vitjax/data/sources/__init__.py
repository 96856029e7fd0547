"""Where pictures come from: the small door that every source has, and the choice between sources.

A kind of source is a file here with `make(data, split) -> Source`, found by its name. One that can be told from
what lies at a path also has `holds(path) -> bool`, and a place in `AUTO`.
"""

import importlib
import os
from collections.abc import Mapping
from typing import Any, Protocol

from vitjax import names
from vitjax.data.shards import is_pattern
from vitjax.data.splits import check_path
from vitjax.errors import UserError

# Kinds that 'auto' tells apart by what lies at the path, the most certain first; none of them: a folder.
# img2dataset lays tables without pictures beside its tar files.
AUTO = ("tfds", "webdataset", "parquet", "array_record", "coco", "masks", "table", "idx")


class Source(Protocol):
    """A picture set with random access.

    `source[i]` is a flat dict: 'image' (the bytes of a picture file, or uint8 [H, W, 3]), the labels 'label' or
    'label/<field>' (int, -1 where there is none), and those of the other fields that `config.data.fields` asks
    for:

    - 'text': the captions, a tuple of str, () where there are none;
    - 'boxes': float32 [M, 4], (y0, x0, y1, x1) in 0..1 of the upright picture, with 'box_label' int32 [M];
    - 'mask': the class of each pixel, as the bytes of a picture file of one channel or uint8 [H, W], of the same
      size as the upright picture; None where there is none.

    It raises `decode.Undecodable` or OSError where the record cannot be read. Sources pickle cheaply: worker
    processes get a copy. Many threads call a source at once.

    A source whose pictures are arrays of one size in memory may also have
    `gather(indices: int64 [n]) -> dict of new arrays`: 'image' uint8 [n, H, W, 3], the labels, and of what else its
    records hold a sequence with n values. A whole batch in one call costs far less than its records one by one.

    One that decides itself in which order its records come to training has
    `order(positions: int64 [n], seed: int) -> int64 [n]`, the records at these positions of an endless sequence,
    and `peers(index) -> range`, the records that may stand in for one that cannot be used.
    """

    # field -> names of its classes, in the labels' order: the labels, and of the fields asked for 'box_label'
    # and 'mask'.
    class_names: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def name(self, index: int) -> str:
        """What a person needs to find the record: a path, or a shard and a row."""


def open_source(data: Any, split: str) -> Source:
    """The source that `config.data` describes.

    Reads `data.source` and `data.path`; each kind reads what else it needs.

    Raises:
      UserError: the path is missing, holds nothing that can be read, has no such split, or lacks a field.
    """
    kind, path = data.source, os.path.expanduser(str(data.path))
    if kind == "auto":
        kind = _kind(path, data.tfds) if path else _without_path(data)
    return names.find("data.sources", kind, "config.data.source").make(data, split)


def _without_path(data: Any) -> str:
    """The kind of source where no path is given."""
    if data.mix:
        return "mix"
    if data.builtin:
        return "builtin"
    if data.tfds:
        return "tfds"
    raise UserError(
        "config.data.path is empty: name your own pictures with --config.data.path=DIR (a folder of pictures, "
        "of parquet, tar or array_record files, or a list of them), or draw some with --config.data.builtin=scenes"
    )


def _kind(path: str, tfds: str) -> str:
    """The kind of source that lies at the path, where the config may mean the set `tfds` below it."""
    if not is_pattern(path):
        check_path(path)
    if tfds and importlib.import_module("vitjax.data.sources.tfds").find(path, tfds):
        return "tfds"
    for kind in AUTO:
        if importlib.import_module(f"vitjax.data.sources.{kind}").holds(path):
            return kind
    return "folder"
