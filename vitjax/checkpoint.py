"""Checkpoints of a run: DIR/checkpoints/<step>/ with the items `params`, `extra` and `opt`.

Each item is a plain nested dict of named arrays: no class of ours or of optax is on the disk, so that
anything that reads orbax can read a run, and other versions of the libraries still can. What was saved (step,
shapes, types) stands as JSON in the checkpoint's own metadata, so that a checkpoint of another model is
refused before a byte of it is read. Saving is asynchronous and atomic: a step's folder has its name only when
all of it is written.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from orbax.checkpoint import v1 as ocp

from vitjax import trees
from vitjax.errors import UserError

FOLDER = "checkpoints"
ITEMS = ("params", "extra", "opt")
FORMAT = 1
_REMOVED = ".removed"
_UNFINISHED = "*.orbax-checkpoint-tmp*"
_SHOWN = 5

Tree = Any
Flat = dict[str, Any]


class Checkpointer:
    """Saves a run's states to `directory`/<step> and restores them, onto any mesh.

    A save that failed in the background raises at the next `save`, `wait` or `close`. Every process must
    make the same calls in the same order.
    """

    def __init__(self, directory: str | Path, keep: int = 2):
        """
        Args:
          directory: the folder of all steps, DIR/checkpoints.
          keep: how many of the newest checkpoints stay; 0 keeps all.
        """
        self._directory = epath.Path(directory).absolute()
        self._keep = keep
        self._writing: tuple[int, Any] | None = None
        self._last: int | None = None

    def save(self, step: int, state: Tree) -> None:
        """Copies `state` to the host and goes on writing it in the background; the next step may donate it.

        A step that was just saved is not saved again; an older folder of the same step is replaced.

        Raises:
          OSError: this save could not start, or the one before it failed.
          ValueError: `step` is not the state's own.
        """
        self.wait()
        if step == self._last:
            return
        if int(state.step) != step:
            raise ValueError(f"save({step}, state): the state is that of step {int(state.step)}")
        if self._last is None:
            self._sweep()
        flat = {name: trees.flatten(getattr(state, name)) for name in ITEMS}
        items = {name: trees.unflatten(leaves) for name, leaves in flat.items() if leaves}
        meta = {"format": FORMAT, "step": step, "shapes": {name: _shapes(x) for name, x in flat.items()}}
        folder = self._directory / str(step)
        try:
            with _context():
                response = ocp.save_checkpointables_async(
                    folder, items, overwrite=folder.exists(), custom_metadata=meta
                )
        except Exception as error:
            raise _failed(folder, error) from error
        self._writing = step, response

    def wait(self) -> None:
        """Returns when the last save is on the disk.

        Raises:
          OSError: it could not be written.
        """
        if self._writing is None:
            return
        (step, response), self._writing = self._writing, None
        try:
            response.result()
        except Exception as error:
            raise _failed(self._directory / str(step), error) from error
        self._last = step
        self._prune()

    def close(self) -> None:
        """Waits for the last save."""
        self.wait()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def latest_step(self) -> int | None:
        """The newest step that is all there, or None."""
        return latest_step(self._directory)

    def restore(self, abstract_state: Tree, step: int | None = None) -> Tree:
        """The state of `step` (the newest by default), in the structure and shardings of `abstract_state`.

        Every buffer belongs to jax alone, so that the first step can donate all of them.

        Args:
          abstract_state: a State of jax.ShapeDtypeStruct; leaves without a sharding go to the default device.

        Raises:
          UserError: there is no such checkpoint, it is of another model, or it cannot be read.
        """
        self.wait()
        folder = _folder(self._directory, step)
        meta = _meta(folder)
        flat = {name: trees.flatten(getattr(abstract_state, name)) for name in ITEMS}
        _refuse_other_model(folder, meta["shapes"], {name: _shapes(x) for name, x in flat.items()})
        loaded = _load(folder, {name: _placed(leaves) for name, leaves in flat.items()})
        filled = {name: _fill(getattr(abstract_state, name), loaded[name]) for name in ITEMS}
        leaf = abstract_state.step
        number = np.asarray(meta["step"], leaf.dtype)
        filled["step"] = jax.make_array_from_callback((), _sharding(leaf), lambda _: number)
        return _owned(abstract_state._replace(**filled))

    def _prune(self) -> None:
        """Removes what is older than the newest `keep` checkpoints."""
        if self._keep and jax.process_index() == 0:
            for step in complete_steps(self._directory)[: -self._keep]:
                folder = self._directory / str(step)
                # A kill in the middle of a removal must not leave half a folder under a checkpoint's name.
                _remove(folder.rename(folder.with_name(folder.name + _REMOVED)))

    def _sweep(self) -> None:
        """Removes what killed processes left half written or half removed."""
        if jax.process_index() == 0 and self._directory.exists():
            for pattern in (_UNFINISHED, "*" + _REMOVED):
                for folder in self._directory.glob(pattern):
                    _remove(folder)


def complete_steps(directory: str | Path) -> list[int]:
    """The steps whose checkpoints are all there, oldest first."""
    folders = (epath.Path(directory).absolute() / str(step) for step in _numbered(directory))
    return [int(folder.name) for folder in folders if _is_complete(folder)]


def latest_step(directory: str | Path) -> int | None:
    """The newest step whose checkpoint is all there, or None; a line in the log for each one passed over."""
    for step in reversed(_numbered(directory)):
        folder = epath.Path(directory).absolute() / str(step)
        if _is_complete(folder):
            return step
        logging.warning("%s is not a complete checkpoint: passed over", folder)
    return None


def read_variables(
    run: str | Path, items: Iterable[str] = ("params", "extra"), step: int | None = None
) -> dict[str, np.ndarray]:
    """'params/...', 'extra/...' -> array on the host, whatever mesh the run in `run` was trained on.

    Raises:
      UserError: there is no such checkpoint, or it cannot be read.
    """
    folder = _folder(epath.Path(run) / FOLDER, step)
    return _read(folder, _meta(folder), items)


def read_state(run: str | Path, abstract_state: Tree, step: int | None = None) -> Tree:
    """The weights of the run in `run` as a State to export, on the default device; its `opt` is empty.

    The arrays are not committed to a device, so that they can be used beside arrays on any mesh.

    Raises:
      UserError: there is no such checkpoint, it is of another model, or it cannot be read.
    """
    folder = _folder(epath.Path(run) / FOLDER, step)
    meta, items = _meta(folder), ("params", "extra")
    wanted = {name: _shapes(trees.flatten(getattr(abstract_state, name))) for name in items}
    _refuse_other_model(folder, {name: meta["shapes"][name] for name in items}, wanted)
    flat = _read(folder, meta, items)
    filled = {}
    for name in items:
        arrays = {path: jnp.asarray(flat[f"{name}/{path}"]) for path in wanted[name]}
        filled[name] = _fill(getattr(abstract_state, name), arrays)
    return abstract_state._replace(step=jnp.asarray(meta["step"], jnp.int32), opt=(), **filled)


def _read(folder: epath.Path, meta: Mapping[str, Any], items: Iterable[str]) -> dict[str, np.ndarray]:
    """'<item>/<path>' -> array on the host."""
    on_host = jax.sharding.SingleDeviceSharding(_host_device())
    wanted = {
        name: {
            path: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype), sharding=on_host)
            for path, (shape, dtype) in meta["shapes"][name].items()
        }
        for name in items
    }
    loaded = _load(folder, wanted)
    return {f"{name}/{path}": np.asarray(x) for name, flat in loaded.items() for path, x in flat.items()}


def _load(folder: epath.Path, wanted: Mapping[str, Flat]) -> dict[str, Flat]:
    """Item -> path -> array, placed as `wanted` says."""
    asked = {name: trees.unflatten(leaves) for name, leaves in wanted.items() if leaves}
    try:
        with _context():
            loaded = ocp.load_checkpointables(folder, asked)
    except Exception as error:
        raise UserError(
            f"the checkpoint {folder} cannot be read: {_root_cause(error)}; "
            "move the folder away to go on from the one before it"
        ) from error
    return {name: trees.flatten(loaded[name]) if name in asked else {} for name in wanted}


def _folder(directory: epath.Path, step: int | None) -> epath.Path:
    """The folder of a complete checkpoint."""
    found = latest_step(directory) if step is None else step
    if found is None:
        raise UserError(f"{directory} holds no complete checkpoint; give the --workdir of a run that saved")
    folder = epath.Path(directory).absolute() / str(found)
    if not _is_complete(folder):
        have = ", ".join(map(str, complete_steps(directory))) or "none"
        raise UserError(f"{folder} is not a complete checkpoint; {directory} holds those of steps {have}")
    return folder


def _numbered(directory: str | Path) -> list[int]:
    """The steps that folders in `directory` are named for, ascending."""
    directory = epath.Path(directory)
    if not directory.exists():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


def _is_complete(folder: epath.Path) -> bool:
    """Whether orbax finished this folder and we wrote it; orbax takes an empty one, too, for finished."""
    try:
        return bool(any(folder.iterdir()) and _meta(folder))
    except (OSError, UserError):
        return False


def _meta(folder: epath.Path) -> dict[str, Any]:
    """What `save` noted: {'format', 'step', 'shapes': {item: {path: [shape, dtype]}}}."""
    try:
        found = ocp.checkpointables_metadata(folder)
        meta = found.custom_metadata
        if found.commit_timestamp_nsecs and meta and meta["format"] == FORMAT:
            return meta
        cause = "it was not written by this version of vitjax"
    except Exception as error:
        cause = _root_cause(error)
    raise UserError(f"{folder} is not a complete checkpoint: {cause}")


def _refuse_other_model(folder: epath.Path, saved: Mapping[str, Flat], wanted: Mapping[str, Flat]) -> None:
    """Raises:
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


def _said(leaf: Sequence[Any]) -> str:
    shape, dtype = leaf
    return f"{dtype}[{','.join(map(str, shape))}]"


def _shapes(flat: Flat) -> dict[str, list]:
    """Path -> [shape, dtype], as JSON has it."""
    return {path: [list(np.shape(leaf)), str(jnp.dtype(leaf.dtype))] for path, leaf in flat.items()}


def _placed(flat: Flat) -> Flat:
    """The abstract leaves, each with a sharding."""
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_sharding(leaf))
        for path, leaf in flat.items()
    }


def _sharding(leaf: Any) -> jax.sharding.Sharding:
    return leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _fill(abstract: Tree, flat: Flat) -> Tree:
    """`abstract` with its leaves taken from `flat`."""
    leaves = [flat[path] for path in trees.flatten(abstract)]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def _owned(state: Tree) -> Tree:
    """`state` in buffers that jax allocated itself, which the first step can donate."""
    shardings = jax.tree.map(lambda x: x.sharding, state)
    copy = jax.jit(lambda x: jax.tree.map(jnp.copy, x), donate_argnums=0, out_shardings=shardings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        return copy(state)


def _host_device() -> jax.Device:
    """The CPU, or the default device where jax was told to use nothing but an accelerator."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def _context() -> ocp.Context:
    """Orbax's settings: no compression (float weights do not shrink, and it takes six times as long)."""
    context = ocp.Context()
    context.array.saving.use_compression = False
    # Made in the background, a folder that cannot be made shows only after a time-out of minutes.
    context.asynchronous.create_directories_asynchronously = False
    return context


def _remove(folder: epath.Path) -> None:
    folder.rmtree(missing_ok=True)


def _failed(folder: epath.Path, error: BaseException) -> OSError:
    return OSError(f"the checkpoint {folder} could not be written: {_root_cause(error)}")


def _root_cause(error: BaseException) -> str:
    """The first exception of the chain: orbax wraps what happened in messages about its handlers."""
    while cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = cause
    return f"{type(error).__name__}: {error}".splitlines()[0]
