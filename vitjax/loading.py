"""Arrays out of a checkpoint: onto the devices of a run, or onto the host for those who only read.

A flipped byte loads silently in orbax. What is read for the host is compared with the checksums here; what goes
to the devices of a run is compared there, by `vitjax.checkpoint`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from vitjax import checksums, stored, trees
from vitjax.errors import RunError, UserError
from vitjax.stored import FOLDER, Damaged

# Leaves that are verified together, unless one alone is larger.
GROUP_BYTES = 2**26
# Errors that say something of the machine and nothing of the checkpoint.
_PASSING = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
_SHOWN = 5

Tree = Any
Flat = dict[str, Any]


def read_variables(
    run: str | Path, items: Iterable[str] = ("params", "extra"), step: int | None = None
) -> dict[str, np.ndarray]:
    """'params/...', 'extra/...' -> array on the host, whatever mesh the run in `run` was trained on.

    Without a `step`, of the newest checkpoint that can be read; a line on stderr for each one passed over.

    Raises:
      UserError: there is no such checkpoint, or it cannot be read.
    """
    items = tuple(items)
    return _of(run, step, lambda folder: _verified(folder, items))


def read_state(run: str | Path, abstract_state: Tree, step: int | None = None) -> Tree:
    """The weights of the run in `run` as a State to export, on the default device; its `opt` is empty.

    The arrays are not committed to a device, so that they can be used beside arrays on any mesh. Without a
    `step`, of the newest checkpoint that can be read; a line on stderr for each one passed over.

    Raises:
      UserError: there is no such checkpoint, it is of another model, or it cannot be read.
    """
    items = ("params", "extra")
    wanted = {name: shapes(trees.flatten(getattr(abstract_state, name))) for name in items}

    def read(folder: epath.Path) -> Tree:
        meta = stored.read_meta(folder)
        refuse_other_model(folder, {name: meta.shapes[name] for name in items}, wanted)
        flat = {path: jnp.asarray(x) for path, x in _verified(folder, items).items()}
        filled = {name: fill(getattr(abstract_state, name), part(flat, name)) for name in items}
        return abstract_state._replace(step=jnp.asarray(meta.step, jnp.int32), opt=(), **filled)

    return _of(run, step, read)


def damaged_leaves(folder: epath.Path) -> Iterator[str]:
    """The leaves of a checkpoint, as 'item/path', that are not what was saved; few are in memory at a time.

    Raises:
      Damaged: the checkpoint cannot even be loaded.
    """
    meta = stored.read_meta(folder)
    for item, leaves in meta.shapes.items():
        for group in _groups(leaves):
            found = _on_host(folder, {item: {path: leaves[path] for path in group}}, partial=True)
            yield from differing(meta.sums, {path: checksums.of_host(x) for path, x in found.items()})


def load(folder: epath.Path, wanted: Mapping[str, Flat], partial: bool = False) -> dict[str, Flat]:
    """Item -> path -> array, placed as `wanted` says; not verified.

    Raises:
      Damaged: it cannot be read.
      RunError: the machine, not the checkpoint, is the cause: out of memory, no permission, no network.
    """
    asked = {name: trees.unflatten(leaves) for name, leaves in wanted.items() if leaves}
    try:
        with _context(partial):
            loaded = ocp.load_checkpointables(folder, asked)
    except Exception as error:
        cause = root_cause(error)
        if "MemoryError" in cause or "PermissionError" in cause or any(word in cause for word in _PASSING):
            raise RunError(f"the checkpoint {folder} could not be read now: {cause}; try again") from error
        raise Damaged(folder, cause) from error
    return {name: trees.flatten(loaded[name]) if name in asked else {} for name in wanted}


def differing(saved: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """The leaves whose checksums are not those that were saved."""
    return [path for path, number in found.items() if saved.get(path) != number]


def refuse_damaged(folder: epath.Path, saved: Mapping[str, int], found: Mapping[str, int]) -> None:
    """
    Raises:
      Damaged: a leaf is not what was saved.
    """
    wrong = differing(saved, found)
    if wrong:
        shown = ", ".join(wrong[:_SHOWN]) + (", ..." if len(wrong) > _SHOWN else "")
        raise Damaged(folder, f"{len(wrong)} of {len(found)} arrays differ from what was saved (checksum): {shown}")


def refuse_other_model(folder: epath.Path, saved: Mapping[str, Flat], wanted: Mapping[str, Flat]) -> None:
    """
    Raises:
      UserError: paths, shapes or types differ between the checkpoint and the model.
    """
    there = {f"{name}/{path}": _said(leaf) for name, flat in saved.items() for path, leaf in flat.items()}
    here = {f"{name}/{path}": _said(leaf) for name, flat in wanted.items() for path, leaf in flat.items()}
    differ = [path for path in sorted({**there, **here}) if there.get(path) != here.get(path)]
    if differ:
        shown = "; ".join(
            f"{path}: {there.get(path, 'nothing')} there, {here.get(path, 'nothing')} here"
            for path in differ[:_SHOWN]
        )
        more = f"; and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
        raise UserError(
            f"{folder}: this checkpoint is of another model: {shown}{more}; use another --workdir "
            "or set config.init to start from its weights"
        )


def shapes(flat: Flat) -> dict[str, list]:
    """Path -> [shape, dtype], as JSON has it."""
    return {path: [list(np.shape(leaf)), str(jnp.dtype(leaf.dtype))] for path, leaf in flat.items()}


def fill(abstract: Tree, flat: Flat) -> Tree:
    """`abstract` with its leaves taken from `flat`."""
    leaves = [flat[path] for path in trees.flatten(abstract)]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def part(flat: Flat, item: str) -> Flat:
    """Path -> leaf, of the leaves 'item/path'."""
    return {path.removeprefix(f"{item}/"): x for path, x in flat.items() if path.startswith(f"{item}/")}


def root_cause(error: BaseException) -> str:
    """The first exception of the chain: orbax wraps what happened in messages about its handlers."""
    while cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = cause
    # What tensorstore appends says how it was configured, at length.
    return f"{type(error).__name__}: {error}".splitlines()[0].split(" [tensorstore_spec")[0]


def _of(run: str | Path, step: int | None, read: Any) -> Any:
    """What `read` makes of the folder of `step`, or of the newest that it can read."""
    directory = epath.Path(run) / FOLDER
    return stored.newest(directory, read) if step is None else read(stored.complete(directory, step))


def _verified(folder: epath.Path, items: Iterable[str]) -> dict[str, np.ndarray]:
    """'item/path' -> array on the host, as it was saved."""
    meta = stored.read_meta(folder)
    found = _on_host(folder, {name: meta.shapes[name] for name in items})
    refuse_damaged(folder, meta.sums, {path: checksums.of_host(x) for path, x in found.items()})
    return found


def _on_host(
    folder: epath.Path, leaves: Mapping[str, Mapping[str, Sequence]], partial: bool = False
) -> dict[str, np.ndarray]:
    """'item/path' -> array on the host."""
    on_host = jax.sharding.SingleDeviceSharding(_host_device())
    wanted = {
        name: {
            path: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype), sharding=on_host)
            for path, (shape, dtype) in flat.items()
        }
        for name, flat in leaves.items()
    }
    loaded = load(folder, wanted, partial)
    return {f"{name}/{path}": np.asarray(x) for name, flat in loaded.items() for path, x in flat.items()}


def _groups(leaves: Mapping[str, Sequence]) -> Iterator[list[str]]:
    """Paths whose leaves together have at most GROUP_BYTES, or one path."""
    group: list[str] = []
    total = 0
    for path, (shape, dtype) in leaves.items():
        size = int(np.prod(shape)) * jnp.dtype(dtype).itemsize
        if group and total + size > GROUP_BYTES:
            yield group
            group, total = [], 0
        group, total = [*group, path], total + size
    if group:
        yield group


def _said(leaf: Sequence[Any]) -> str:
    shape, dtype = leaf
    return f"{dtype}[{','.join(map(str, shape))}]"


def _host_device() -> jax.Device:
    """The CPU, or the default device where jax was told to use nothing but an accelerator."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def _context(partial: bool) -> ocp.Context:
    """Orbax's settings for reading."""
    context = ocp.Context()
    context.pytree.loading.partial_load = partial
    # Each process reads its part by itself: one that fails must not leave the others waiting for it in orbax.
    me = jax.process_index()
    context.multiprocessing.primary_host = me
    context.multiprocessing.active_processes = {me}
    return context
