"""How a parquet data set is laid out: its splits, its columns, the names of its classes."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vitjax.data import classes, columns, files
from vitjax.data.arrow_text import BYTES, as_bytes, is_string
from vitjax.data.columns import Wanted
from vitjax.errors import UserError

# What reading a damaged file ends in: names of columns may be no UTF-8, and there may be fewer rows than were said.
DAMAGE = (pa.ArrowException, OSError, ValueError, IndexError)
_AT_ONCE = 16  # files whose ends are read


class Layout(NamedTuple):
    image: str  # the leaf that holds the bytes: 'image.bytes' or 'image'
    path: str | None  # the leaf that holds the picture's own name
    labels: dict[str, str]  # field -> column
    names: dict[str, tuple[str, ...]]  # field -> class names, where the schema says them
    texts: tuple[str, ...]  # of captions, where they are wanted


class Group(NamedTuple):
    file: int
    number: int  # of the row group in its file
    rows: int


def at(file: str, act: Callable[[Any], Any]) -> Any:
    """What `act` makes of the file: of the path of a local one, which Arrow reads faster than Python could.

    Raises:
      OSError: a remote file cannot be read, or `act` fails on it.
    """
    return files.use(file, act) if files.is_remote(file) else act(file)


def _metadata(file: str) -> pq.FileMetaData:
    try:
        return at(file, pq.read_metadata)
    except DAMAGE as error:
        raise UserError(f"{file} cannot be read as parquet ({error}); replace it or move it out") from error


def layout_of(file: str, wanted: Wanted) -> Layout:
    """Which columns hold the picture, the labels and the captions.

    Raises:
      UserError: a column is not there or of another kind, or none holds pictures.
    """
    schema = _metadata(file).schema.to_arrow_schema()
    there, features = schema.names, _features(schema)
    described = {
        n: tuple(f["names"]) for n, f in features.items() if f.get("_type") == "ClassLabel" and "names" in f
    }
    image = _image(schema, features, wanted.image, file)
    kind = schema.field(image).type
    labels = columns.named("label_columns", wanted.labels, there, file) or _labels(there, list(described))
    texts = columns.texts(wanted.texts, there, file)
    _refuse_kinds("label_columns", labels, schema, _is_label, "whole numbers or strings", file)
    _refuse_kinds("text_columns", texts, schema, _is_text, "strings or lists of them", file)
    fields = columns.fields(labels)
    return Layout(
        image=f"{image}.bytes" if pa.types.is_struct(kind) else image,
        path=f"{image}.path" if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 else None,
        labels=fields,
        names={field: described[column] for field, column in fields.items() if column in described},
        texts=texts,
    )


def _image(schema: pa.Schema, features: Mapping[str, dict], name: str, file: str) -> str:
    """The column of pictures: the one that was named, else by description, name and kind."""
    named = columns.named("image_column", (name,) if name else (), schema.names, file)
    described = [n for n, f in features.items() if f.get("_type") == "Image"]
    candidates = named or [n for n in [*described, "image", "img", *schema.names] if n in schema.names]
    image = next((n for n in candidates if _holds_bytes(schema.field(n).type)), None)
    if image is None:
        raise UserError(
            f"{file}: {f'config.data.image_column={name!r} does not hold' if name else 'no column holds'} pictures, "
            f"which are bytes in the file (struct{{bytes, path}} or binary) and not paths or addresses; "
            f"the columns are {', '.join(schema.names)}"
        )
    return image


def _labels(there: Sequence[str], described: list[str]) -> tuple[str, ...]:
    return tuple(n for n in dict.fromkeys(["label", *described]) if n in there) or columns.usual(columns.LABEL, there)


def _refuse_kinds(
    key: str, names: Sequence[str], schema: pa.Schema, fits: Callable[[pa.DataType], bool], needed: str, file: str
) -> None:
    for name in names:
        if not fits(schema.field(name).type):
            raise UserError(
                f"{file}: the column {name!r} is {schema.field(name).type}, and {needed} are needed; name another "
                f"one with config.data.{key}"
            )


def _features(schema: pa.Schema) -> dict[str, dict]:
    """{column: its description by Hugging Face}, {} where there is none."""
    try:
        description = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return {n: f for n, f in description["info"]["features"].items() if isinstance(f, dict)}
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_label(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return is_string(kind) or any(
        of_kind(kind) for of_kind in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return is_string(kind) or pa.types.is_binary(kind) or pa.types.is_null(kind)


def class_names(layout: Layout, paths: list[str]) -> dict[str, tuple[str, ...]]:
    """Names by the schema, else by the values in the files of all splits, so that they agree.

    A column without a single label is left out.
    """
    names = dict(layout.names)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for field, column in layout.labels.items():
            if field not in names:
                seen = set().union(*pool.map(lambda path, column=column: _values(path, column), paths))
                names[field] = classes.names(seen, f"{paths[0]}, column {column!r}")
    return {field: found for field, found in names.items() if found}


def _values(path: str, column: str) -> set[int | str]:
    """The labels that occur in a column.

    Raises:
      UserError: it is damaged.
    """
    try:
        values = labels(leaf(at(path, lambda file: pq.read_table(file, columns=[column])).column(0)))
    except DAMAGE as error:
        raise UserError(f"{path}: the column {column!r} cannot be read ({error}); replace it or move it out") from error
    return set(pc.unique(pc.drop_null(values)).to_pylist())


def labels(column: pa.Array) -> pa.Array:
    """The labels as strings or int64: null where there is none, -2 for a number that is not whole.

    Pandas writes whole numbers as floats where some are missing. In strings what is invalid is replaced.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_string(column.type):
        encoded = column.cast(BYTES).dictionary_encode()
        names = [name.decode("utf-8", "replace") for name in encoded.dictionary.to_pylist()]
        return pa.array(names, pa.large_string()).take(encoded.indices)
    if pa.types.is_floating(column.type):
        column = pc.cast(column, pa.float64())
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
        column = pc.if_else(pc.equal(pc.floor(column), column), column, -2.0)
    return pc.cast(column, pa.int64(), safe=False)


def texts(column: pa.Array) -> pa.Array:
    """The captions as bytes, or lists of them."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(as_bytes(column.type))


def row_groups(paths: list[str], layout: Layout) -> tuple[list[Group], int]:
    """All row groups in order, and the bytes of their pictures."""
    groups, image_bytes = [], 0
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        described = list(pool.map(_metadata, paths))
    for number, (path, metadata) in enumerate(zip(paths, described)):
        leaves = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
        there = set(metadata.schema.to_arrow_schema().names)
        missing = {*layout.labels.values(), *layout.texts} - there
        if layout.image not in leaves or missing:
            raise UserError(
                f"{path} has no column {min(missing, default=layout.image)!r} as {paths[0]} has; move it out"
            )
        for g in range(metadata.num_row_groups):
            group = metadata.row_group(g)
            groups.append(Group(number, g, group.num_rows))
            image_bytes += group.column(leaves[layout.image]).total_uncompressed_size
    return groups, image_bytes


def leaf(column: pa.ChunkedArray) -> pa.Array:
    """One array; of a struct with one member, that member (null where the struct is null)."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    return array.flatten()[0] if pa.types.is_struct(array.type) else array
