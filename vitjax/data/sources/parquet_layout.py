"""How a parquet data set is laid out: its splits, its columns, the names of its classes."""

import json
import os
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vitjax.data.splits import split_folders, split_of_shard
from vitjax.errors import UserError


class Columns(NamedTuple):
    image: str  # the leaf that holds the bytes: 'image.bytes' or 'image'
    path: str | None  # the leaf that holds the picture's own name
    labels: dict[str, str]  # field -> column
    names: dict[str, tuple[str, ...]]  # field -> class names, where the schema says them


class Group(NamedTuple):
    file: int
    number: int  # of the row group in its file
    rows: int


def parquet_files(path: str) -> dict[str | None, list[str]]:
    """{split: files in the order of their names}; {None: files} where nothing names a split.

    Looks at the file itself, the files directly in `path`, in its folder 'data', and in the folders of
    its splits.

    Raises:
      UserError: one split stands in folders and in file names, or only some of the files name a split.
    """
    if os.path.isfile(path):
        return {split_of_shard(os.path.basename(path)): [path]} if path.endswith(".parquet") else {None: []}
    files = _shards(path) or _shards(os.path.join(path, "data"))
    splits: dict[str | None, list[str]] = {}
    for file in files:
        splits.setdefault(split_of_shard(os.path.basename(file)), []).append(file)
    for split, folder in split_folders(path).items():
        found = _shards(folder)
        if found and split in splits:
            raise UserError(
                f"config.data.path={path}: the split {split!r} is the folder {folder} and also files named "
                f"{split}-*; keep one of them"
            )
        if found:
            splits[split] = found
    if len(splits) > 1 and None in splits:
        raise UserError(
            f"config.data.path={path}: {os.path.basename(splits[None][0])!r} names no split but other files "
            "do; name it train-*.parquet, or move it out"
        )
    return splits or {None: []}


def _shards(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return [
        entry.path
        for entry in sorted(os.scandir(folder), key=lambda e: e.name)
        if entry.name.endswith(".parquet") and not entry.name.startswith(".") and entry.is_file()
    ]


def _schema(file: str) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file} cannot be read as parquet ({error}); replace it or move it out") from error


def columns_of(file: str) -> Columns:
    """Which columns hold the picture and the labels.

    Raises:
      UserError: none holds pictures.
    """
    schema = _schema(file)
    features = _features(schema)
    described = [n for n, f in features.items() if f.get("_type") == "Image"]
    candidates = [n for n in [*described, "image", "img", *schema.names] if n in schema.names]
    image = next((n for n in candidates if _holds_bytes(schema.field(n).type)), None)
    if image is None:
        raise UserError(
            f"{file}: no column holds pictures (struct{{bytes, path}} or binary); "
            f"the columns are {', '.join(schema.names)}"
        )
    kind = schema.field(image).type
    classes = {
        n: tuple(f["names"]) for n, f in features.items() if f.get("_type") == "ClassLabel" and "names" in f
    }
    labels = _label_fields(schema, list(classes))
    return Columns(
        image=f"{image}.bytes" if pa.types.is_struct(kind) else image,
        path=f"{image}.path" if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 else None,
        labels=labels,
        names={field: classes[column] for field, column in labels.items() if column in classes},
    )


def _features(schema: pa.Schema) -> dict[str, dict]:
    """{column: its description by Hugging Face}, {} where there is none."""
    try:
        description = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return {n: f for n, f in description["info"]["features"].items() if isinstance(f, dict)}
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}


def _label_fields(schema: pa.Schema, classes: list[str]) -> dict[str, str]:
    """{field: column}: 'label' for the column of that name or a lone class column, else 'label/<column>'."""
    columns = [n for n in dict.fromkeys(["label", *classes]) if n in schema.names]
    if len(columns) == 1:
        return {"label": columns[0]}
    return {n if n == "label" else f"label/{n}": n for n in columns}


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def class_names(columns: Columns, files: list[str]) -> dict[str, tuple[str, ...]]:
    """Names by the schema, else by the values in the files of all splits, so that they agree."""
    names = dict(columns.names)
    for field, column in columns.labels.items():
        if field not in names:
            values = [leaf(pq.read_table(f, columns=[column]).column(0)).unique() for f in files]
            seen = {v for part in values for v in part.to_pylist() if v is not None}
            if all(isinstance(v, str) for v in seen):
                names[field] = tuple(sorted(seen))
            else:
                names[field] = tuple(str(v) for v in range(int(max(seen)) + 1))
    return names


def row_groups(files: list[str], columns: Columns) -> tuple[list[Group], int]:
    """All row groups in order, and the bytes of their pictures."""
    groups, image_bytes = [], 0
    for number, file in enumerate(files):
        _schema(file)
        metadata = pq.read_metadata(file)
        leaves = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
        if columns.image not in leaves:
            raise UserError(f"{file} has no column {columns.image!r} as {files[0]} has; move it out")
        for g in range(metadata.num_row_groups):
            group = metadata.row_group(g)
            groups.append(Group(number, g, group.num_rows))
            image_bytes += group.column(leaves[columns.image]).total_uncompressed_size
    return groups, image_bytes


def leaf(column: pa.ChunkedArray) -> pa.Array:
    """One array; of a struct with one member, that member (null where the struct is null)."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    return array.flatten()[0] if pa.types.is_struct(array.type) else array
