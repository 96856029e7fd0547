"""Tables that say how another library's weights are ours: one table a layout, used to read and to write.

A table is a list of rows. A row joins arrays of ours ('params/backbone/norm/scale') to arrays of theirs
('norm.weight') and holds the two functions between them, each the exact inverse of the other. Blocks have
their single names, never those of a scanned stack.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vitjax.errors import UserError

Arrays = tuple[np.ndarray, ...]


class Row(NamedTuple):
    """Some arrays of ours that are some arrays of theirs.

    Attributes:
      ours, theirs: the names, each used by one row only. Without `ours` the arrays are constants for us:
        `read` then checks them and returns (), and `write` makes them.
      read, write: theirs -> ours and ours -> theirs.
      required: whether `theirs` must be there to be read.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    read: Callable[[Arrays], Arrays]
    write: Callable[[Arrays], Arrays]
    required: bool = True


def read(weights: Mapping[str, np.ndarray], rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Our flat variables from their flat weights.

    Raises:
      UserError: a name of the table is missing in `weights`, or `weights` holds a name that the table lacks.
    """
    wanted = {name for row in rows for name in row.theirs}
    missing = {name for row in rows if row.required for name in row.theirs} - set(weights)
    _complain(missing, set(weights) - wanted)
    out: dict[str, np.ndarray] = {}
    for row in rows:
        if all(name in weights for name in row.theirs):
            arrays = row.read(tuple(np.asarray(weights[name]) for name in row.theirs))
            out.update(zip(row.ours, arrays, strict=True))
    return out


def write(variables: Mapping[str, np.ndarray], rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Their flat weights from our flat variables, contiguous and in the table's order.

    Raises:
      UserError: a name of the table is missing in `variables`, or `variables` holds one that it lacks.
    """
    wanted = {name for row in rows for name in row.ours}
    _complain(wanted - set(variables), set(variables) - wanted)
    out: dict[str, np.ndarray] = {}
    for row in rows:
        arrays = row.write(tuple(np.asarray(variables[name]) for name in row.ours))
        out.update((name, _contiguous(x)) for name, x in zip(row.theirs, arrays, strict=True))
    return out


def same(ours: str, theirs: str) -> Row:
    """An array that is the same on both sides."""
    return Row((ours,), (theirs,), lambda arrays: arrays, lambda arrays: arrays)


def one(ours: str, theirs: str, read: Callable, write: Callable) -> Row:
    """One array of ours that is one of theirs in another layout."""
    return Row((ours,), (theirs,), lambda arrays: (read(arrays[0]),), lambda arrays: (write(arrays[0]),))


def linear(ours: str, theirs: str) -> list[Row]:
    """A linear map with bias: torch keeps [out, in], we [in, out]."""
    return [one(f"{ours}/kernel", f"{theirs}.weight", np.transpose, np.transpose), bias(ours, theirs)]


def bias(ours: str, theirs: str) -> Row:
    """A bias."""
    return same(f"{ours}/bias", f"{theirs}.bias")


def norm(ours: str, theirs: str) -> list[Row]:
    """A layer norm, or the parameters of a batch norm."""
    return [same(f"{ours}/scale", f"{theirs}.weight"), bias(ours, theirs)]


def batch_norm(ours: str, theirs: str) -> list[Row]:
    """A batch norm with its statistics; `ours` is the path below 'params' and 'batch_stats'."""
    return [
        *norm(f"params/{ours}", theirs),
        same(f"batch_stats/{ours}/mean", f"{theirs}.running_mean"),
        same(f"batch_stats/{ours}/var", f"{theirs}.running_var"),
        dropped(f"{theirs}.num_batches_tracked", np.zeros((), np.int64)),
    ]


def conv(ours: str, theirs: str) -> Row:
    """A convolution's kernel: torch keeps [out, in, h, w], we [h, w, in, out]."""
    return one(
        f"{ours}/kernel",
        f"{theirs}.weight",
        lambda x: x.transpose(2, 3, 1, 0),
        lambda x: x.transpose(3, 2, 0, 1),
    )


def joined_linear(ours: str, theirs: Sequence[str]) -> list[Row]:
    """One linear map of ours that is several of theirs side by side, such as q, k and v."""
    parts = len(theirs)
    kernel = Row(
        (f"{ours}/kernel",),
        tuple(f"{name}.weight" for name in theirs),
        lambda arrays: (np.concatenate(arrays).T,),
        lambda arrays: tuple(np.split(arrays[0].T, parts)),
    )
    bias = Row(
        (f"{ours}/bias",),
        tuple(f"{name}.bias" for name in theirs),
        lambda arrays: (np.concatenate(arrays),),
        lambda arrays: tuple(np.split(arrays[0], parts)),
    )
    return [kernel, bias]


def split_first(ours: tuple[str, str], theirs: str, axis: int) -> Row:
    """Two arrays of ours that are one of theirs: its first entry along `axis`, and the rest."""
    return Row(
        ours,
        (theirs,),
        lambda arrays: tuple(np.split(arrays[0], [1], axis)),
        lambda arrays: (np.concatenate(arrays, axis),),
    )


def constant(theirs: str, value: np.ndarray, remedy: str) -> Row:
    """An array of theirs that is a constant for us; reading another value than it is a UserError."""

    def check(arrays: Arrays) -> Arrays:
        if arrays[0].shape != value.shape or not np.allclose(arrays[0], value, atol=1e-5):
            raise UserError(f"{theirs!r} in the weights is not the constant that this model has; {remedy}")
        return ()

    return Row((), (theirs,), check, lambda arrays: (value,))


def dropped(theirs: str, value: np.ndarray) -> Row:
    """An array of theirs that means nothing to us; it may be absent, and is written as `value`."""
    return Row((), (theirs,), lambda arrays: (), lambda arrays: (value,), required=False)


def _contiguous(x: np.ndarray) -> np.ndarray:
    """safetensors and torch take the bytes as they lie, so a transposed view must be laid out first."""
    return np.array(x, order="C")


def _complain(missing: set[str], unexpected: set[str]) -> None:
    parts = [
        f"{what}: {', '.join(sorted(names)[:20])}{' ...' if len(names) > 20 else ''} ({len(names)})"
        for what, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if parts:
        raise UserError(f"these weights do not belong to this model; {'; '.join(parts)}")
