"""Pictures that a list names: csv, tsv or jsonl, with a column of paths and others of labels and captions."""

import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from vitjax.data import captions, classes, columns, files
from vitjax.data.arrow_text import BYTES, as_bytes, is_string
from vitjax.data.decode import Undecodable
from vitjax.data.shards import is_pattern, shards_of
from vitjax.data.sources import folder
from vitjax.errors import UserError

SUFFIXES = (".csv", ".tsv", ".jsonl")
IMAGES = (
    "image", "image_path", "path", "filepath", "file_path", "file", "filename", "file_name", "url", "image_url",
)  # fmt: skip
BLOCK_BYTES = 64 << 20  # read at once; no row may be longer
_WHOLE = r"^[+-]?[0-9]{1,15}$"
_LABELS = (
    pa.types.is_large_binary, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null,
)  # fmt: skip
_log = logging.getLogger(__name__)


def make(data: Any, split: str) -> "TableSource":
    """The rows of the lists at `data.path`."""
    return TableSource(os.path.expanduser(str(data.path)), split, columns.wanted(data))


def holds(path: str) -> bool:
    """Whether the path is a list, or a folder with lists and neither pictures nor folders.

    A list beside these may be somebody's notes: then 'auto' takes the pictures.
    """
    if is_pattern(path) or os.path.isfile(path) or files.is_remote(path):
        return path.lower().endswith(SUFFIXES)
    with os.scandir(path) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    names = [entry.name.lower() for entry in visible]
    has_list = any(name.endswith(SUFFIXES) for name in names)
    has_pictures = any(name.endswith(folder.SUFFIXES) for name in names)
    return has_list and not has_pictures and not any(entry.is_dir() for entry in visible)


class TableSource:
    """The rows of one split, in the order of the lists' names and of their rows.

    Lists are found as shards are (`vitjax.data.shards`), local or at a URL, and read whole. The first line of csv and
    tsv names the columns; csv quotes as spreadsheets do, and in tsv a quotation mark is a character like others. A row
    with too many or too few values is left out, and one warning says how many were.

    A picture is a path relative to its list, an absolute path or a URL; a row without one is a bad record. The
    columns are those of `wanted`, else the first of IMAGES, of `columns.LABEL` and of `columns.TEXT` that
    there is. Labels are whole numbers where all of them are, in all splits, else names, numbered in their order; no
    label, or one below 0, is -1. In memory is what these columns hold, as Arrow arrays, and worker processes have a
    copy.

    Raises:
      UserError: no such path or split, no lists, a damaged one, no rows, or a column is missing.
    """

    def __init__(self, path: str, split: str, wanted: columns.Wanted = columns.Wanted()):  # noqa: B008
        self._path = path
        self._lists, all_lists = shards_of(path, SUFFIXES, split)
        mine = [_read(file, lambda names, file=file: _columns(names, wanted, file)) for file in self._lists]
        self._starts = np.cumsum([0, *(table.num_rows for table in mine)])
        if not len(self):
            raise UserError(f"config.data.path={path}: the lists of split {split!r} hold no rows")
        for file, table in zip(self._lists, mine):
            _check_kinds(file, table, wanted)
        self._images = pa.concat_arrays(
            [_joined(table, table.column_names[0]).cast(BYTES) for table in mine]
        )
        labels = {file: _labels_in(table, wanted) for file, table in zip(self._lists, mine)}
        others = [file for file in all_lists if file not in labels]
        labels |= {
            file: _labels_in(_read(file, lambda names: _labelled(names, wanted)), wanted) for file in others
        }
        self._number_labels(labels)
        self._has_text = wanted.texts is not None
        # A file's own column: one list may call it otherwise than another.
        texts = [columns.texts(wanted.texts, table.column_names, file) for file, table in zip(self._lists, mine)]
        self._texts = [[_joined(table, name) for name in names] for table, names in zip(mine, texts)]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, row = self._place(index)
        record = {"image": _picture(self._lists[file], self._images[index].as_py())}
        record |= {field: int(numbers[index]) for field, numbers in self._labels.items()}
        if self._has_text:
            values = [column[row].as_py() for column in self._texts[file]]
            record["text"] = tuple(text for value in values for text in captions.clean(value))
        return record

    def name(self, index: int) -> str:
        """The list, the row in it from 0, and what stands there for the picture."""
        file, row = self._place(index)
        said = os.fsdecode(self._images[index].as_py() or b"")
        return f"{os.path.basename(self._lists[file])}:{row} ({said})"

    def __repr__(self) -> str:
        return f"TableSource({self._path!r}, {len(self)} rows in {len(self._lists)} lists)"

    def _number_labels(self, found: dict[str, dict[str, pa.Array]]) -> None:
        """Makes numbers of the labels, given those of each list of each split by field."""
        self.class_names: dict[str, tuple[str, ...]] = {}
        self._labels: dict[str, np.ndarray] = {}
        for field in found[self._lists[0]]:
            missing = [file for file in self._lists if field not in found[file]]
            if missing:
                raise UserError(
                    f"{missing[0]} has no labels, and {self._lists[0]} of the same split has some"
                )
            values = _alike({file: labels[field] for file, labels in found.items() if field in labels})
            seen = {value for part in values.values() for value in pc.unique(part).to_pylist() if value is not None}
            self.class_names[field] = classes.names(seen, f"the labels of config.data.path={self._path}")
            self._labels[field] = np.concatenate([_numbers(values[f], self.class_names[field]) for f in self._lists])

    def _place(self, index: int) -> tuple[int, int]:
        """The list of a record and the row in it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        return file, index - int(self._starts[file])


def _picture(file: str, said: bytes | None) -> bytes:
    """The bytes of the picture that a list calls so.

    Raises:
      Undecodable, OSError: the row names none, or it cannot be read.
    """
    if not said:
        raise Undecodable("the row names no picture")
    path = os.fsdecode(said)
    return files.read_named(path if files.is_remote(path) else os.path.join(os.path.dirname(file), path))


def _columns(names: list[str], wanted: columns.Wanted, file: str) -> list[str]:
    """The columns to read of a list of the split: that of the pictures first, then labels and captions.

    Raises:
      UserError: one is not there.
    """
    asked = (wanted.image,) if wanted.image else ()
    images = columns.named("image_column", asked, names, file) or columns.usual(IMAGES, names)
    if not images:
        raise UserError(
            f"{file} has no column of the usual names ({', '.join(IMAGES)}) that says where its pictures are; set "
            f"config.data.image_column to one of its columns: {', '.join(names)}"
        )
    columns.named("label_columns", wanted.labels, names, file)
    return list(dict.fromkeys([*images, *_labelled(names, wanted), *columns.texts(wanted.texts, names, file)]))


def _labelled(names: list[str], wanted: columns.Wanted) -> list[str]:
    """Which of the columns hold labels."""
    return [name for name in wanted.labels if name in names] or list(columns.usual(columns.LABEL, names))


def _labels_in(table: pa.Table, wanted: columns.Wanted) -> dict[str, pa.Array]:
    """{field: labels} of a list; a column that another split's list lacks is no field there."""
    names = _labelled(table.column_names, wanted)
    fields = columns.fields(wanted.labels or names)
    return {field: _joined(table, name) for field, name in fields.items() if name in names}


def _check_kinds(file: str, table: pa.Table, wanted: columns.Wanted) -> None:
    """Raises:
    UserError: what should be text is none, as it may be in jsonl.
    """
    image, texts = table.column_names[0], columns.texts(wanted.texts, table.column_names, file)
    for name in (image, *texts):
        kind = table.schema.field(name).type
        allowed = (BYTES, pa.null()) if name == image else (BYTES, pa.null(), pa.large_list(BYTES))
        if kind not in allowed:
            said = "paths and URLs" if name == image else "captions"
            raise UserError(f"{file}: the column {name!r} is {kind}; {said} are texts")


def _read(file: str, choose: Callable[[list[str]], list[str]]) -> pa.Table:
    """The columns of a list that `choose` takes of all its columns' names; texts as bytes.

    Raises:
      UserError: it cannot be read.
    """
    try:
        table = _read_json(file, choose) if file.lower().endswith(".jsonl") else _read_separated(file, choose)
        kinds = [as_bytes(kind) for kind in table.schema.types]
        return table.cast(pa.schema(list(zip(table.column_names, kinds))))
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:  # a column's name may be no UTF-8
        raise UserError(f"{file} cannot be read as a list ({error}); mend it, or move it out") from error


def _opened(file: str) -> Any:
    """What Arrow reads a list from."""
    return pa.BufferReader(files.read(file)) if files.is_remote(file) else file


def _read_json(file: str, choose: Callable[[list[str]], list[str]]) -> pa.Table:
    table = pyarrow.json.read_json(_opened(file), pyarrow.json.ReadOptions(block_size=BLOCK_BYTES))
    return table.select(choose(table.column_names))


def _read_separated(file: str, choose: Callable[[list[str]], list[str]]) -> pa.Table:
    is_csv = file.lower().endswith(".csv")
    left_out: list[str] = []

    def leave_out(row: pyarrow.csv.InvalidRow) -> str:
        left_out.append(row.text[:80])
        return "skip"

    parse = pyarrow.csv.ParseOptions(
        delimiter="," if is_csv else "\t",
        quote_char='"' if is_csv else False,
        newlines_in_values=is_csv,
        invalid_row_handler=leave_out,
    )
    read = pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES)
    with pyarrow.csv.open_csv(_opened(file), read, parse) as reader:
        names = choose(reader.schema.names)
    left_out.clear()  # they come again
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, BYTES),
        include_columns=names,
        null_values=[""],
        strings_can_be_null=True,
    )
    table = pyarrow.csv.read_csv(_opened(file), read, parse, convert)
    if left_out:
        _log.warning(
            "%s: %d rows have too many or too few values and were left out, such as %r",
            file,
            len(left_out),
            left_out[0],
        )
    return table


def _numbers(values: pa.Array, names: tuple[str, ...]) -> np.ndarray:
    """The class of each row; -1 for null, and for what is not among the classes."""
    if is_string(values.type):
        values = pc.index_in(values, pa.array(names, values.type))
    numbers = pc.fill_null(values, -1).to_numpy(zero_copy_only=False)
    return np.where((numbers >= 0) & (numbers < len(names)), numbers, -1).astype(np.int32)


def _joined(table: pa.Table, column: str) -> pa.Array:
    """A column as one array."""
    return table.column(column).combine_chunks()


def _alike(found: dict[str, pa.Array]) -> dict[str, pa.Array]:
    """The labels of each list as whole numbers, if those of all lists are, else as names.

    Raises:
      UserError: they are neither.
    """
    for file, values in found.items():
        if not any(is_kind(values.type) for is_kind in _LABELS):
            raise UserError(f"{file}: the labels are {values.type}; labels are numbers or names")
    texts = {file: _names(values) for file, values in found.items()}
    if all(pc.all(pc.match_substring_regex(text, _WHOLE), min_count=0).as_py() for text in texts.values()):
        return {file: text.cast(pa.int64()) for file, text in texts.items()}
    return texts


def _names(values: pa.Array) -> pa.Array:
    """Labels as text; null where there is none."""
    encoded = values.dictionary_encode()
    names = [_label_name(value) for value in encoded.dictionary.to_pylist()]
    return pa.array(names, pa.large_string()).take(encoded.indices)


def _label_name(value: Any) -> str | None:
    """A label as text, trimmed and what is invalid replaced; a float that is a whole number as this."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace").strip()
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None or value == "" else str(value)
