"""Pictures in parquet files, in the layout of Hugging Face datasets.

A global shuffle reads records in no order, and a row group can only be read whole: with groups of 1,000
pictures a batch of 256 would decompress 256,000. So the groups that were read stay in memory, as Arrow
buffers without a copy, up to `cache_bytes` (per process); a set that fits is read once. A larger one
still works, each record then costing a row group: prepare it as another kind of file, or write row
groups of a few records.
"""

import bisect
import logging
import os
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vitjax.data.decode import Undecodable
from vitjax.data.sources.parquet_layout import class_names, columns_of, leaf, parquet_files, row_groups
from vitjax.data.splits import check_path, choose_split, refuse_unsplit
from vitjax.errors import UserError

CACHE_BYTES = 4 << 30
_log = logging.getLogger(__name__)


def make(data: Any, split: str) -> "ParquetSource":
    """The rows of the parquet files at `data.path`."""
    return ParquetSource(os.path.expanduser(str(data.path)), split)


def holds(path: str) -> bool:
    """Whether parquet files lie at the path, or in the folders of its splits."""
    return any(parquet_files(path).values())


class ParquetSource:
    """The records of one split, in the order of the files' names and of their rows.

    Files named train-*, validation-*, val-* or test-*, or lying in folders of these names, are splits;
    without such names everything is 'train'. The picture is a column struct{bytes, path} or binary.
    Fields: the column 'label', and further columns of class labels by the Hugging Face description in
    the schema, as 'label/<column>' (a single one of another name is 'label' too). A missing label is -1.
    `image.path` often holds the class and is never given to a model.

    Raises:
      UserError: no such path or split, no rows, or no column of pictures.
    """

    def __init__(self, path: str, split: str, cache_bytes: int = CACHE_BYTES):
        check_path(path)
        splits = parquet_files(path)
        if not any(splits.values()):
            raise UserError(f"config.data.path={path}: no .parquet files there")
        if list(splits) == [None]:
            refuse_unsplit(split, path)
            self._files = splits[None]
        else:
            self._files = choose_split({k: v for k, v in splits.items() if k}, split, path)
        self._path, self._cache_bytes = path, cache_bytes
        self._columns = columns_of(self._files[0])
        self.class_names = class_names(self._columns, [f for files in splits.values() for f in files])
        self._groups, image_bytes = row_groups(self._files, self._columns)
        self._starts = np.cumsum([0] + [group.rows for group in self._groups]).tolist()
        if not len(self):
            raise UserError(f"config.data.path={path}: the files of split {split!r} hold no rows")
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
        images, labels = self._group(number)
        data = images[row].as_py()
        if data is None:
            raise Undecodable("the picture's bytes are null")
        return {"image": data, **{field: int(values[row]) for field, values in labels.items()}}

    def name(self, index: int) -> str:
        """The file, the row in it, and the picture's own path where there is one."""
        number, row = self._place(index)
        group = self._groups[number]
        file_row = row + sum(g.rows for g in self._groups[:number] if g.file == group.file)
        where = f"{os.path.relpath(self._files[group.file], os.path.dirname(self._files[0]))}:{file_row}"
        if self._columns.path is None:
            return where
        table = pq.ParquetFile(self._files[group.file]).read_row_group(
            group.number, columns=[self._columns.path]
        )
        own = leaf(table.column(0))[row].as_py()
        return f"{where} ({own})" if own else where

    def __repr__(self) -> str:
        return f"ParquetSource({self._path!r}, {len(self)} rows in {len(self._files)} files)"

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_cache", "_held", "_lock", "_metadata")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start_cache()

    def _start_cache(self) -> None:
        self._cache: OrderedDict[int, tuple] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()
        self._metadata: dict[int, pq.FileMetaData] = {}

    def _place(self, index: int) -> tuple[int, int]:
        """The row group of a record and the row in it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._starts, index) - 1
        return number, index - self._starts[number]

    def _group(self, number: int) -> tuple[pa.Array, dict[str, np.ndarray]]:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
        group = self._read(number)  # outside the lock: threads read different groups at once
        with self._lock:
            if number not in self._cache:
                self._cache[number] = group
                self._held += group[0].nbytes
            while self._held > self._cache_bytes and len(self._cache) > 1:
                self._held -= self._cache.popitem(last=False)[1][0].nbytes
        return group

    def _read(self, number: int) -> tuple[pa.Array, dict[str, np.ndarray]]:
        group, columns = self._groups[number], self._columns
        metadata = self._metadata.get(group.file)
        file = pq.ParquetFile(self._files[group.file], metadata=metadata)
        self._metadata[group.file] = file.metadata
        try:
            table = file.read_row_group(group.number, columns=[columns.image, *columns.labels.values()])
        except pa.ArrowException as error:
            raise Undecodable(f"the row group {group.number} is damaged: {error}") from error
        labels = {
            field: self._numbers(field, leaf(table.column(column)))
            for field, column in columns.labels.items()
        }
        return leaf(table.column(columns.image.split(".")[0])), labels

    def _numbers(self, field: str, column: pa.Array) -> np.ndarray:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = pc.index_in(column, pa.array(self.class_names[field], column.type))
        return pc.fill_null(column.cast(pa.int64()), -1).to_numpy().astype(np.int32)
