"""Texts in Arrow's columns as bytes: what calls itself UTF-8 may not be, and cannot be read as str then."""

import pyarrow as pa

BYTES = pa.large_binary()


def is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def as_bytes(kind: pa.DataType) -> pa.DataType:
    """The kind of a column with bytes in place of texts."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.large_list(as_bytes(kind.value_type)) if is_string(kind.value_type) else kind
    return BYTES if is_string(kind) else kind
