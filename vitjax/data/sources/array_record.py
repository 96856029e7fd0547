"""Pictures in array_record files: vitjax's own records, or `tf.train.Example`.

For a global shuffle such files are written with 'group_size:1'; larger groups are read whole for each picture.
"""

import bisect
import contextlib
import functools
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader

from vitjax.data import cache, classes, files, local_copies, records, tf_example
from vitjax.data.decode import Undecodable
from vitjax.data.shards import shard_files, shards_of
from vitjax.errors import UserError

SUFFIXES = (".array_record", ".arrayrecord")
_AT_ONCE = 16  # files that are opened
_PEEKED = 64  # records that are tried for one that can be read
_BLANK = {"text": (), "boxes": np.zeros((0, 4), np.float32), "box_label": np.zeros(0, np.int32), "mask": None}
_log = logging.getLogger(__name__)

Decode = Callable[[bytes], dict[str, Any]]


def make(data: Any, split: str) -> "ArrayRecordSource":
    """The records of the files at `data.path`; files at a URL are copied into `data.cache_dir` first.

    What kind of records they are and which fields they have, the first that can be read says. The classes are
    those of `records.json` beside the files, else those that occur in the records of all splits: these are then
    read through once, and the classes kept in `data.cache_dir`.

    Raises:
      UserError: there are no such files, no records, no such split or column, or a file is damaged.
    """
    path = os.path.expanduser(str(data.path))
    mine, every = shards_of(path, SUFFIXES, split)
    folder = os.path.dirname(mine[0])
    description = records.read_description(folder) or records.read_description(os.path.dirname(folder))
    needed = mine if description else every
    if files.is_remote(path):
        copies = dict(zip(needed, local_copies.ensure(needed, data.cache_dir, data.cache_gb)))
        mine, needed = [copies[file] for file in mine], list(copies.values())
    shards = _opened(mine)
    if not sum(shard.take for shard in shards):
        raise UserError(f"config.data.path={path}: the files of split {split!r} hold no records")
    decode, first = _first_readable(shards, data)
    fields = _fields(description.fields if description else first, tuple(data.fields))
    names = description.class_names if description else _occurring(needed, decode, fields, data.cache_dir)
    unnamed = [field for field in fields if _is_label(field) and field not in names]
    if unnamed:
        raise UserError(f"{records.DESCRIPTION} in {path} names no classes of {unnamed[0]!r}; write the set again")
    return ArrayRecordSource(path, shards, decode, fields, {f: tuple(names[f]) for f in fields if f in names})


def holds(path: str) -> bool:
    """Whether array_record files lie at the path, or in the folders of its splits."""
    return any(shard_files(path, SUFFIXES).values())


class Shard(NamedTuple):
    """A file, as `ArrayRecordDataSource` takes it: so it does not count the records again."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class ArrayRecordSource:
    """The records of `shards`, in the order of the files and in theirs.

    A label that is none of the classes is -1, and a field that a record lacks is empty.

    Args:
      path: as the user gave it.
      decode: gives the fields of a record from its bytes.
      fields: those beside the picture.
    """

    def __init__(
        self,
        path: str,
        shards: list[Shard],
        decode: Decode,
        fields: tuple[str, ...],
        class_names: Mapping[str, tuple[str, ...]],
    ):
        self._path, self._shards, self._decode, self._fields = path, shards, decode, fields
        self._ends = list(itertools.accumulate(shard.take for shard in shards))
        self._records = ArrayRecordDataSource(shards)
        self.class_names = class_names
        self._numbers = {
            field: {name: number for number, name in enumerate(names)}
            for field, names in class_names.items()
            if _is_label(field)
        }

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        found = self._decode(_bytes(self._records, index))
        if "image" not in found:
            raise Undecodable("the record has no picture")
        record = {"image": found["image"]}
        for field in self._fields:
            if _is_label(field):
                record[field] = classes.number(found.get(field), self._numbers[field], len(self.class_names[field]))
            else:
                record[field] = found.get(field, _BLANK[field])
        return record

    def name(self, index: int) -> str:
        """The file, the number in it, and the record's own name where there is one."""
        shard = bisect.bisect_right(self._ends, index)
        _, skip, take, _ = self._shards[shard]
        where = f"{os.path.basename(self._shards[shard].filename)}:{index - self._ends[shard] + take + skip}"
        try:
            own = self._decode(_bytes(self._records, index)).get("name")
        except Undecodable:
            return where
        return f"{where} ({own})" if own else where

    def __repr__(self) -> str:
        return f"ArrayRecordSource({self._path!r}, {len(self)} records in {len(self._shards)} files)"


def _is_label(field: str) -> bool:
    return field.split("/")[0] == "label"


def _fields(there: Iterable[str], asked: tuple[str, ...]) -> tuple[str, ...]:
    """The labels that are there, and of the other fields those that are asked for; boxes come with their labels."""
    there = list(there)
    wanted = [part for field in asked for part in ((field, "box_label") if field == "boxes" else (field,))]
    return (*filter(_is_label, there), *(field for field in wanted if field in there))


def _opened(paths: list[str]) -> list[Shard]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(_shard, paths))


def _shard(path: str) -> Shard:
    """The file and how many records it has.

    Raises:
      UserError: it is damaged; a file that was cut would otherwise seem to be empty.
    """
    reader = ArrayRecordReader(path)
    count, is_sound = reader.num_records(), reader.ok()
    try:
        reader.close()
    except Exception as error:
        reason = str(error).split(";")[0]
    else:
        reason = "it has no index"
    if not is_sound:
        raise UserError(f"{path} cannot be read as array_record ({reason}); write it again or move it out")
    return Shard(path, 0, count, count)


def _bytes(held: ArrayRecordDataSource, index: int) -> bytes:
    try:
        return held[index]
    except RuntimeError as error:
        raise Undecodable(f"the file is damaged here: {error}") from error


def _first_readable(shards: list[Shard], data: Any) -> tuple[Decode, dict[str, Any]]:
    """How the records are decoded, and the first one that can be."""
    held = ArrayRecordDataSource(shards)
    for index in range(min(len(held), _PEEKED)):
        try:
            raw = _bytes(held, index)
            decode = _decoder(raw, data)
            return decode, decode(raw)
        except Undecodable as error:
            reason = error
    raise UserError(
        f"{shards[0].filename}: none of {index + 1} records can be read ({reason}); the set must hold "
        "tf.train.Example, or what vitjax writes"
    )


def _decoder(raw: bytes, data: Any) -> Decode:
    """What decodes records of the same kind as this one."""
    if tf_example.is_example(raw):
        columns = tf_example.columns_of(raw, data.image_column, tuple(data.label_columns), tuple(data.text_columns))
        return functools.partial(tf_example.decode, columns=columns)
    for key in ("image_column", "label_columns", "text_columns"):
        if getattr(data, key):
            raise UserError(
                f"config.data.{key}={getattr(data, key)!r}: these records have fields of fixed names; leave it empty"
            )
    return records.decode


def _occurring(
    paths: list[str], decode: Decode, fields: tuple[str, ...], cache_dir: str
) -> dict[str, tuple[str, ...]]:
    """The classes that occur in all records of these files, for each field of labels."""
    fields = tuple(field for field in fields if _is_label(field) or field == "box_label")
    if not fields:
        return {}
    versions = [(path, files.version(path)) for path in paths]
    columns = getattr(decode, "keywords", {})
    key = hashlib.sha256(repr((versions, fields, columns)).encode()).hexdigest()[:32]
    kept = cache.folder(cache_dir) / "classes" / f"{key}.json"
    try:
        return {field: tuple(names) for field, names in json.loads(kept.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        pass
    _log.info("reading the labels of all %d files for the names of the classes", len(paths))
    seen: dict[str, set] = {field: set() for field in fields}
    held = ArrayRecordDataSource(_opened(paths))
    for index in range(len(held)):
        try:
            record = decode(_bytes(held, index))
        except Undecodable:  # it will be met again, and counted
            continue
        for field in fields:
            seen[field].update(v for v in np.atleast_1d(record.get(field, ())).tolist() if v is not None)
    names = {field: classes.names(values, paths[0]) for field, values in seen.items()}
    with contextlib.suppress(OSError):  # where the cache cannot be written, they are read again next time
        cache.put(kept, json.dumps(names).encode())
    return names
