"""Pictures in tar files, as img2dataset and WebDataset write them, read where they lie and in any order.

A sample is the files of one name: a picture, and beside it .txt (a caption), .json (columns) and .cls (a class).
"""

import glob
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt32

from vitjax.data import captions, classes, files
from vitjax.data.shards import is_pattern, shard_files, shards_of
from vitjax.data.sources.folder import SUFFIXES
from vitjax.data.splits import split_folders
from vitjax.data.tar_index import TarIndex, open_index
from vitjax.data.tar_scan import BLOCK_BYTES, IMAGE, JSON, MAX_JSON_BYTES, TXT, parse
from vitjax.errors import UserError

_USUAL_TEXT = ("txt", "caption", "text", "captions")
_MAX_TEXT_BYTES = 4 * captions.MAX_CHARACTERS  # of a .txt, the rest is not read
_MAX_GAP_BYTES = 1 << 16  # between two files of a sample that are still read in one go
_PEEKED = 100  # samples that are searched for a column


def make(data: Any, split: str) -> "WebdatasetSource":
    """The samples of the tar files at `data.path`; where a folder has none, those in the folders directly in it.

    Labels are the .cls files, or the columns `data.label_columns` of .json ('cls' is the file): a single one is
    'label', several are 'label/<column>'. Texts are numbered in sorted order over all splits. Captions are the .txt
    files, or where a sample has none the column 'caption', 'text' or 'captions'; or the columns
    `data.text_columns` of .json ('txt' is the file).

    Raises:
      UserError: there are no such files, no samples, no such split or column, or a file is no tar.
    """
    path = os.path.expanduser(str(data.path))
    mine, every = shards_of(_pattern(path), (".tar",), split)
    columns = tuple(data.label_columns)
    index = open_index(every, columns or ("cls",), data.cache_dir)
    first = every.index(mine[0])
    rows = range(index.starts[first], index.starts[first + len(mine)])
    if not rows:
        raise UserError(f"config.data.path={path}: the tar files of split {split!r} hold no pictures")
    class_names = _class_names(index, columns, path)
    return WebdatasetSource(path, every, index, rows, class_names, _text(index, rows, every, data))


def holds(path: str) -> bool:
    """Whether tar files lie at the path, and no pictures beside them: those would be meant rather than an archive."""
    found = [file for shards in shard_files(_pattern(path), (".tar",)).values() for file in shards]
    if not found or is_pattern(path) or not files.is_folder(path):
        return bool(found)
    untarred = [
        folder
        for folder in split_folders(path).values()
        if not any(file.startswith(files.join(folder, "")) for file in found)
    ]
    beside = [path, *(entry.path for entry in files.scan(path)[1])]
    return not untarred and not any(_has_pictures(folder) for folder in beside)


class WebdatasetSource:
    """The samples `rows` of an index, read by ranges of bytes.

    Args:
      path: as the user gave it.
      shards: the files of the index.
      text: groups of columns; the captions are those of the first column of each group that a sample has.
    """

    def __init__(
        self,
        path: str,
        shards: list[str],
        index: TarIndex,
        rows: range,
        class_names: Mapping[str, tuple[str, ...]],
        text: tuple[tuple[str, ...], ...],
    ):
        self._path, self._shards, self._index, self._rows, self._text = path, shards, index, rows, text
        self.class_names = class_names
        self._numbers = []  # of the classes by the places of the index's values, -1 last: 'none'
        for (field, names), values in zip(class_names.items(), index.values):
            numbers = {name: number for number, name in enumerate(names)}
            self._numbers.append((field, [classes.number(v, numbers, len(names)) for v in values] + [-1]))
        self._root_length = os.path.commonprefix(shards).rfind("/") + 1

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = self._rows[index]
        parts = _read(self._shards[self._index.shard(row)], self._index.spans[row], bool(self._text))
        record = {"image": parts[IMAGE]}
        for (field, numbers), place in zip(self._numbers, self._index.labels[row].tolist()):
            record[field] = numbers[place]
        if self._text:
            found = _columns(parts)
            groups = (next((column for column in group if column in found), None) for group in self._text)
            record["text"] = sum((captions.clean(found.get(column)) for column in groups), ())
        return record

    def name(self, index: int) -> str:
        """The tar file and the sample's key in it."""
        row = self._rows[index]
        return f"{self._shards[self._index.shard(row)][self._root_length :]}:{self._index.key(row)}"

    def __repr__(self) -> str:
        return f"WebdatasetSource({self._path!r}, {len(self)} samples in {len(self._shards)} files)"


def _pattern(path: str) -> str:
    """The path, or where it has no tar files itself a pattern of those in the folders directly in it."""
    if is_pattern(path) or any(shard_files(path, (".tar",)).values()) or not files.is_folder(path):
        return path
    deeper = files.join(path if files.is_remote(path) else glob.escape(path), "*/*.tar")
    return deeper if any(shard_files(deeper, (".tar",)).values()) else path


def _has_pictures(folder: str) -> bool:
    if files.is_remote(folder):
        return any(entry.name.lower().endswith(SUFFIXES) for entry in files.scan(folder)[0])
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(SUFFIXES) for entry in entries)


def _class_names(index: TarIndex, columns: tuple[str, ...], path: str) -> dict[str, tuple[str, ...]]:
    """field -> its classes, in the order of the index's columns; {} where there are no labels and none are asked for.

    Raises:
      UserError: no sample has a label in a column that was named, or its labels are no classes.
    """
    if not columns and not index.values[0]:
        return {}
    for column, values in zip(columns, index.values):
        if not values:
            raise UserError(
                f"config.data.label_columns={columns!r}: no sample in {path} has a text or a whole number in {column!r}"
            )
    fields = [column if column.startswith("label/") else f"label/{column}" for column in columns]
    return {
        field: classes.names(values, f"config.data.path={path}")
        for field, values in zip(fields if len(fields) > 1 else ["label"], index.values)
    }


def _text(index: TarIndex, rows: range, shards: list[str], data: Any) -> tuple[tuple[str, ...], ...]:
    """The columns of captions as `WebdatasetSource` takes them.

    Raises:
      UserError: the first samples have none of them.
    """
    if "text" not in data.fields:
        return ()
    groups = tuple((column,) for column in data.text_columns) or (_USUAL_TEXT,)
    there: set[str] = set()
    for row in rows[:_PEEKED]:
        there |= _columns(_read(shards[index.shard(row)], index.spans[row], True)).keys()
        if all(there.intersection(group) for group in groups):
            return groups
    missing = next(group for group in groups if not there.intersection(group))
    raise UserError(
        f"config.data.text_columns={tuple(data.text_columns)!r} with 'text' in config.data.fields: of the first "
        f"{min(len(rows), _PEEKED)} samples in {data.path} none has {' or '.join(map(repr, missing))}; name columns of "
        f".json that hold captions, or 'txt'; there are: {', '.join(sorted(there)) or 'none'}"
    )


def _columns(parts: Mapping[int, bytes]) -> dict[str, Any]:
    """What the .txt (as 'txt') and the .json of a sample hold."""
    found = parse(parts[JSON]) if JSON in parts else {}
    return found | ({"txt": parts[TXT]} if TXT in parts else {})


def _read(shard: str, spans: UInt32[np.ndarray, "4 2"], with_text: bool) -> dict[int, bytes]:
    """The picture's bytes, and those of the .txt and .json that there are.

    Raises:
      OSError: the file cannot be read, or was cut since it was indexed.
    """
    ranges = {}
    for kind in (IMAGE, TXT, JSON) if with_text else (IMAGE,):
        block, size = spans[kind].tolist()
        if block and not (kind == JSON and size > MAX_JSON_BYTES):
            start = block * BLOCK_BYTES
            ranges[kind] = start, start + (min(size, _MAX_TEXT_BYTES) if kind == TXT else size)
    first, last = min(start for start, _ in ranges.values()), max(stop for _, stop in ranges.values())
    if last - first > sum(stop - start for start, stop in ranges.values()) + _MAX_GAP_BYTES:
        return {kind: files.read(shard, *span) for kind, span in ranges.items()}
    data = files.read(shard, first, last)
    return {kind: data[start - first : stop - first] for kind, (start, stop) in ranges.items()}
