"""Pictures in parquet files, in the layout of Hugging Face datasets.

A global shuffle reads records in no order, and a row group can only be read whole: with groups of 1,000
pictures a batch of 256 would decompress 256,000. So the groups that were read stay in memory, as Arrow
buffers without a copy, up to `cache_bytes` (per process); a set that fits is read once. A larger one
still works, each record then costing a row group: prepare it as another kind of file, or write row
groups of a few records. Of files at a URL only the row groups that are read are fetched.
"""

import bisect
import logging
import os
import threading
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vitjax.data import captions, columns, files
from vitjax.data.arrow_text import is_string
from vitjax.data.decode import Undecodable
from vitjax.data.shards import shard_files, shards_of
from vitjax.data.sources.parquet_layout import (
    DAMAGE,
    at,
    class_names,
    labels,
    layout_of,
    leaf,
    row_groups,
    texts,
)
from vitjax.errors import UserError

SUFFIXES = (".parquet",)
CACHE_BYTES = 4 << 30
_log = logging.getLogger(__name__)


def make(data: Any, split: str) -> "ParquetSource":
    """The rows of the parquet files at `data.path`."""
    return ParquetSource(os.path.expanduser(str(data.path)), split, columns.wanted(data))


def holds(path: str) -> bool:
    """Whether parquet files lie at the path, or in the folders of its splits."""
    return any(shard_files(path, SUFFIXES).values())


class Rows(NamedTuple):
    """A row group in memory."""

    images: pa.Array
    labels: dict[str, np.ndarray]
    texts: list[pa.Array]

    @property
    def nbytes(self) -> int:
        return self.images.nbytes + sum(column.nbytes for column in self.texts)


class ParquetSource:
    """The records of one split, in the order of the files' names and of their rows.

    Files named train-*, validation-*, val-* or test-*, or lying in folders of these names, are splits;
    without such names everything is 'train'. The picture is a column struct{bytes, path} or binary: its bytes are in
    the file, and columns of paths or addresses are no pictures.
    `image.path` often holds the class and is never given to a model.

    Labels: the columns that `wanted` names, else the column 'label' and those of class labels by the Hugging Face
    description in the schema, as 'label/<column>' (a single one of another name is 'label' too). A label is -1
    where it is missing, and where it is none of the classes, which a warning tells once. Captions: strings or lists
    of strings.

    Raises:
      UserError: no such path, split or column, no rows, or no column of pictures.
    """

    def __init__(
        self,
        path: str,
        split: str,
        wanted: columns.Wanted = columns.Wanted(),  # noqa: B008
        cache_bytes: int = CACHE_BYTES,
    ):
        self._files, all_files = shards_of(path, SUFFIXES, split)
        self._path, self._cache_bytes = path, cache_bytes
        layout = layout_of(self._files[0], wanted)
        self._groups, image_bytes = row_groups(self._files, layout)
        self.class_names = class_names(layout, all_files)
        self._layout = layout._replace(labels={f: c for f, c in layout.labels.items() if f in self.class_names})
        self._starts = np.cumsum([0] + [group.rows for group in self._groups]).tolist()
        if not len(self):
            raise UserError(f"config.data.path={path}: the files of split {split!r} hold no rows")
        self._has_told = False
        self._start_cache()
        if image_bytes > cache_bytes:
            _log.warning(
                "%s: %.1f GB of pictures do not fit into the %.1f GB kept in memory; most records will "
                "cost reading a row group of about %d pictures",
                path, image_bytes / 1e9, cache_bytes / 1e9, len(self) // len(self._groups),
            )  # fmt: skip

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, row = self._place(index)
        rows = self._group(number)
        data = rows.images[row].as_py()
        if data is None:
            raise Undecodable("the picture's bytes are null")
        record = {"image": data, **{field: int(values[row]) for field, values in rows.labels.items()}}
        if self._layout.texts:
            record["text"] = sum((captions.clean(column[row].as_py()) for column in rows.texts), ())
        return record

    def name(self, index: int) -> str:
        """The file, the row in it, and the picture's own path where there is one."""
        number, row = self._place(index)
        group, column = self._groups[number], self._layout.path
        file_row = row + sum(g.rows for g in self._groups[:number] if g.file == group.file)
        file = self._files[group.file]
        where = f"{files.below(os.path.dirname(self._files[0]), file)}:{file_row}"
        if column is None:
            return where
        try:
            table = at(file, lambda opened: pq.ParquetFile(opened).read_row_group(group.number, columns=[column]))
            own = os.fsdecode(leaf(table.column(0)).cast(pa.binary())[row].as_py() or b"")
        except DAMAGE:
            return where
        return f"{where} ({own})" if own else where

    def __repr__(self) -> str:
        return f"ParquetSource({self._path!r}, {len(self)} rows in {len(self._files)} files)"

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_cache", "_held", "_lock", "_metadata")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start_cache()

    def _start_cache(self) -> None:
        self._cache: OrderedDict[int, Rows] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()
        self._metadata: dict[int, pq.FileMetaData] = {}

    def _place(self, index: int) -> tuple[int, int]:
        """The row group of a record and the row in it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._starts, index) - 1
        return number, index - self._starts[number]

    def _group(self, number: int) -> Rows:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
        rows = self._read(number)  # outside the lock: threads read different groups at once
        with self._lock:
            if number not in self._cache:
                self._cache[number] = rows
                self._held += rows.nbytes
            while self._held > self._cache_bytes and len(self._cache) > 1:
                self._held -= self._cache.popitem(last=False)[1].nbytes
        return rows

    def _read(self, number: int) -> Rows:
        group, layout = self._groups[number], self._layout
        wanted = [layout.image, *layout.labels.values(), *layout.texts]

        def read(opened: Any) -> pa.Table:
            metadata = self._metadata.get(group.file)
            file = pq.ParquetFile(opened, metadata=metadata, pre_buffer=files.is_remote(self._files[group.file]))
            self._metadata[group.file] = file.metadata
            return file.read_row_group(group.number, columns=wanted)

        try:
            table = at(self._files[group.file], read)
        except DAMAGE as error:
            raise Undecodable(f"the row group {group.number} cannot be read: {error}") from error
        if table.num_rows != group.rows:
            raise Undecodable(f"the row group {group.number} has {table.num_rows} of {group.rows} rows")
        numbers = {field: self._numbers(field, leaf(table.column(name))) for field, name in layout.labels.items()}
        pictures = leaf(table.column(layout.image.split(".")[0]))
        return Rows(pictures, numbers, [texts(leaf(table.column(name))) for name in layout.texts])

    def _numbers(self, field: str, column: pa.Array) -> np.ndarray:
        """The labels of a column, -1 where there is none or no such class."""
        values = labels(column)
        count = len(self.class_names[field])
        if is_string(values.type):
            values = pc.index_in(values, pa.array(self.class_names[field], values.type))
        numbers = pc.fill_null(values, -1).to_numpy().astype(np.int64)
        outside = (numbers < -1) | (numbers >= count)
        if outside.any() and not self._has_told:
            self._has_told = True
            _log.warning(
                "%s: %r is %d in a row, and the classes end at %d: this label and others like it are taken for unknown",
                self._path, self._layout.labels[field], numbers[outside][0], count - 1,
            )  # fmt: skip
        return np.where(outside, -1, numbers).astype(np.int32)
