"""Checkpoints of a run: DIR/checkpoints/<step>/ with the items `params`, `extra` and `opt`.

Each item is a plain nested dict of named arrays: no class of ours or of optax is on the disk, so that
anything that reads orbax can read a run, and other versions of the libraries still can. What was saved (step,
shapes, types, a checksum of each array) stands as JSON in the checkpoint's own metadata, so that a checkpoint
of another model is refused before a byte of it is read, and a byte that changed is found. Saving is
asynchronous and atomic: a step's folder has its name only when all of it is written.

`vitjax.stored` knows what lies on the disk, `vitjax.loading` reads arrays.
"""

import functools
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from orbax.checkpoint import v1 as ocp

from vitjax import checksums, loading, multihost, retention, stored, trees
from vitjax.errors import RunError, UserError
from vitjax.loading import read_state, read_variables
from vitjax.stored import FOLDER, ITEMS, Damaged, complete_steps, latest_step

__all__ = ["FOLDER", "ITEMS", "Checkpointer", "complete_steps", "latest_step", "read_state", "read_variables"]

Tree = Any
Flat = dict[str, Any]
T = TypeVar("T")


class Restored(NamedTuple):
    """A state as it was saved, its step, and the batches that the run had left out by then."""

    state: Tree
    step: int
    left_out: tuple[int, ...]


class Checkpointer:
    """Saves a run's states to `directory`/<step> and restores them, onto any mesh.

    A save that failed in the background raises at the next `save`, `wait` or `close`. Every process must
    make the same calls in the same order.
    """

    def __init__(
        self,
        directory: str | Path,
        keep: int = 2,
        *,
        keep_every_steps: int = 0,
        keep_best_mode: str = "max",
        scores: Callable[[], Mapping[int, float]] = dict,
        say: Callable[[str], None] = print,
    ):
        """
        Args:
          directory: the folder of all steps, DIR/checkpoints.
          keep: how many of the newest checkpoints stay; 0 keeps all.
          keep_every_steps: checkpoints of multiples of it stay for good; 0 for none.
          keep_best_mode: 'max' or 'min': which of `scores` is the best.
          scores: step -> metric, asked whenever checkpoints are removed; the best one stays.
          say: gets a line about whatever is passed over, on the first process.
        """
        retention.check(keep_best_mode)
        logging.get_absl_logger().addFilter(_is_news)
        self._directory = epath.Path(directory).absolute()
        self._kept = functools.partial(
            retention.kept, keep=keep, every_steps=keep_every_steps, mode=keep_best_mode
        )
        self._scores = scores
        self._say = say if jax.process_index() == 0 else lambda text: None
        self._writing: tuple[int, Any] | None = None
        self._last: int | None = None
        self._swept = False
        self._background: threading.Thread | None = None

    def prepare(self, abstract_state: Tree) -> None:
        """Compiles in the background what the first save needs, so that it takes no longer than the others."""
        self._start(checksums.prepare, {name: getattr(abstract_state, name) for name in ITEMS})

    def save(self, step: int, state: Tree, left_out: Sequence[int] = ()) -> None:
        """Copies `state` to the host and goes on writing it in the background; the next step may donate it.

        A step that was just saved or restored is not saved again; an older folder of the same step is replaced.

        Args:
          left_out: the batches that the run goes without; whoever goes on from here has to know them.

        Raises:
          RunError: this save could not start, or the one before it failed.
          ValueError: `step` is not the state's own.
        """
        self.wait()
        if step == self._last:
            return
        if int(state.step) != step:
            raise ValueError(f"save({step}, state): the state is that of step {int(state.step)}")
        flat = {name: trees.flatten(getattr(state, name)) for name in ITEMS}
        paths, sums = checksums.of_tree({name: getattr(state, name) for name in ITEMS})
        items = {name: trees.unflatten(leaves) for name, leaves in flat.items() if leaves}
        shapes = {name: loading.shapes(leaves) for name, leaves in flat.items()}
        meta = stored.sealed(step, shapes, dict(zip(paths, np.asarray(sums).tolist(), strict=True)), left_out)
        folder = stored.at(self._directory, step)
        try:
            self._make_room(folder)
            with _context():
                # `overwrite` only because orbax asks every process, and the first one has just made room.
                response = ocp.save_checkpointables_async(folder, items, overwrite=True, custom_metadata=meta)
        except Exception as error:
            raise self._failed(folder, error) from error
        self._writing = step, response

    def wait(self) -> None:
        """Returns when the last save is on the disk.

        Raises:
          RunError: it could not be written.
        """
        if self._writing is None:
            return
        (step, response), self._writing = self._writing, None
        folder = stored.at(self._directory, step)
        try:
            response.result()
            if jax.process_index() == 0:
                stored.refuse_unwritten(folder)
        except Exception as error:
            raise self._failed(folder, error) from error
        self._last = step
        self._prune()

    def close(self) -> None:
        """Waits for the last save, and until what it made superfluous is gone."""
        self.wait()
        self._join()

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
        return self._restored(stored.complete(self._directory, step), abstract_state).state

    def restore_newest(self, abstract_state: Tree) -> Restored | None:
        """The newest state that can be read; None where no checkpoint was ever finished.

        One that is damaged is named, renamed to <step>.damaged, and the one before it is tried. All
        processes take the same one.

        Raises:
          UserError: one is of another model or of another version's format, or there are some and none can be
            read: starting from zero would lose them silently.
        """
        self.wait()
        steps, lost, unfinished = self._listed()
        for step in reversed(steps):
            folder = stored.at(self._directory, step)
            try:
                return self._restored(folder, abstract_state)
            except Damaged as error:
                self._pass_over(folder, error)
        if steps or lost:
            raise UserError(
                f"none of the checkpoints in {self._directory} can be read; to begin anew, give another --workdir "
                "or remove that folder; to try one again, give it back its name (from <step>.damaged to <step>)"
            )
        if unfinished:
            self._say(f"{self._directory} holds only a first save that was never finished: beginning anew.")
        return None

    def _restored(self, folder: epath.Path, abstract_state: Tree) -> Restored:
        """The state in `folder`, the same everywhere or an error everywhere."""
        meta, loaded = _everywhere(folder, lambda: _load(folder, abstract_state))
        owned, sums = _owned(loaded)
        loading.refuse_damaged(folder, meta.sums, sums)
        filled = {name: loading.fill(getattr(abstract_state, name), loading.part(owned, name)) for name in ITEMS}
        self._last = meta.step
        state = abstract_state._replace(step=_number(meta.step, abstract_state.step), **filled)
        return Restored(state, meta.step, meta.left_out)

    def _listed(self) -> tuple[list[int], int, int]:
        """As the first process sees it: the steps that have folders, and how many were set aside and never finished."""
        lost = [x for mark in (stored.DAMAGED, stored.REMOVED) for x in stored.marked(self._directory, mark)]
        unfinished = stored.unfinished(self._directory)
        seen = [len(lost), len(unfinished), *stored.numbered(self._directory)]
        first, second, *steps = multihost.from_first(seen)
        return steps, first, second

    def _pass_over(self, folder: epath.Path, error: Damaged) -> None:
        """Says why, and takes a damaged checkpoint out of the way; an empty folder may be written over."""
        if jax.process_index():
            return
        aside = ""
        if folder.exists() and any(folder.iterdir()):
            try:
                aside = f"; it is {stored.move_aside(folder).name} now"
            except Exception as refused:
                aside = f"; it could not be renamed: {refused}"
        self._say(f"{folder} is passed over: {error.cause}{aside}")

    def _make_room(self, folder: epath.Path) -> None:
        """Takes a folder in the way of this save aside, and removes what killed processes left half written."""
        self._join()
        if jax.process_index():
            return
        if not self._swept:
            self._swept = True
            # No other run can be writing them: the lock (`vitjax.lock`), and at a remote directory the lease
            # (`vitjax.lease`), keep a second one off; a run that lost its lease ends before it saves.
            _remove(stored.unfinished(self._directory))
        if folder.exists():
            _remove([folder.with_name(folder.name + stored.REMOVED)])
            stored.retire(folder)

    def _prune(self) -> None:
        """Removes, in the background, what retention lets go: the save before this is written and was read back."""
        if jax.process_index():
            return
        try:
            steps = complete_steps(self._directory)
            stay = self._kept(steps, scores=self._scores())
            retired = [stored.retire(stored.at(self._directory, step)) for step in sorted(set(steps) - stay)]
        except Exception as error:  # each remote file system has its own
            self._say(f"an old checkpoint could not be removed: {type(error).__name__}: {error}")
            return
        left = {*retired, *stored.marked(self._directory, stored.REMOVED)}
        self._start(_remove, sorted(left))

    def _start(self, act: Callable[[Any], None], argument: Any) -> None:
        """Does it in the background, after what is being done there."""
        self._join()
        self._background = threading.Thread(target=act, args=(argument,))
        self._background.start()

    def _join(self) -> None:
        if self._background is not None:
            self._background.join()

    def _failed(self, folder: epath.Path, error: BaseException) -> RunError:
        """What to raise; what the save left on the disk is removed."""
        if jax.process_index() == 0:
            _remove(path for path in stored.unfinished(self._directory) if path.name.split(".")[0] == folder.name)
        others = [step for step in complete_steps(self._directory) if str(step) != folder.name]
        stands = f"{stored.at(self._directory, others[-1])} stands" if others else "no earlier one stands"
        return RunError(
            f"the checkpoint {folder} could not be written: {loading.root_cause(error)}; {stands}. Make room or "
            "mend the cause, and the same command goes on from there"
        )


def _load(folder: epath.Path, abstract_state: Tree) -> tuple[stored.Meta, Flat]:
    """What the checkpoint says of itself, and 'item/path' -> array, placed as in `abstract_state`."""
    meta = stored.read_meta(folder)
    flat = {name: trees.flatten(getattr(abstract_state, name)) for name in ITEMS}
    loading.refuse_other_model(folder, meta.shapes, {name: loading.shapes(x) for name, x in flat.items()})
    loaded = loading.load(folder, {name: _placed(leaves) for name, leaves in flat.items()})
    return meta, {f"{name}/{path}": x for name, leaves in loaded.items() for path, x in leaves.items()}


def _placed(flat: Flat) -> Flat:
    """The abstract leaves, each with a sharding."""
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_sharding(leaf))
        for path, leaf in flat.items()
    }


def _sharding(leaf: Any) -> jax.sharding.Sharding:
    return leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _owned(flat: Flat) -> tuple[Flat, dict[str, int]]:
    """The arrays in buffers that jax allocated itself, which the first step can donate, and their checksums.

    One leaf after another, so that no more than one is in memory twice.
    """
    owned, parts = {}, {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        for path, x in flat.items():
            owned[path], parts[path] = _own(x.sharding)(x)
    sums = np.asarray(checksums.combined(list(parts.values()))).tolist()
    return owned, dict(zip(parts, sums, strict=True))


def _number(step: int, abstract: Any) -> jax.Array:
    """`step` as the leaf of a State, in a buffer of jax's own."""
    sharding, number = _sharding(abstract), np.asarray(step, abstract.dtype)
    return _own(sharding)(jax.make_array_from_callback((), sharding, lambda _: number))[0]


@functools.lru_cache
def _own(sharding: jax.sharding.Sharding) -> Callable:
    """A copy of an array and the parts of its checksum, both from one look at it."""

    def own(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.copy(x), checksums.parts(x, sharding)

    return jax.jit(own, donate_argnums=0, out_shardings=(sharding, checksums.over_devices(sharding)))


def _everywhere(folder: epath.Path, act: Callable[[], T]) -> T:
    """The result of `act`, if it succeeded in every process; if not, an error in each of them.

    Raises:
      Damaged: in some process it raised that, and nothing worse in any.
      UserError, RunError: in some process it raised another error.
    """
    if jax.process_count() == 1:
        return act()
    result, error = None, None
    try:
        result = act()
    except Exception as caught:  # whatever it is, the other processes have to know
        error = caught
    mine = 0 if error is None else 1 if isinstance(error, Damaged) else 2
    worst = int(multihost.gather(np.asarray([mine])).max())
    if worst > mine:
        text = "another process could not read its part of it"
        raise Damaged(folder, text) if worst == 1 else RunError(f"{folder}: {text}")
    if error is not None:
        raise error
    return result


def _is_news(record: Any) -> bool:
    """False for the stacks that orbax logs, a thousand lines for one full disk, of errors that it raises as well."""
    return not (record.exc_info and "/orbax/" in record.pathname)


def _context() -> ocp.Context:
    """Orbax's settings: no compression (float weights do not shrink, and it takes six times as long)."""
    context = ocp.Context()
    context.array.saving.use_compression = False
    # Made in the background, a folder that cannot be made shows only after a time-out of minutes.
    context.asynchronous.create_directories_asynchronously = False
    return context


def _remove(folders: Iterable[epath.Path]) -> None:
    """Removes folders; one that resists stays for the next attempt, which finds it by its name."""
    for folder in folders:
        try:
            folder.rmtree(missing_ok=True)
        except Exception as error:  # each remote file system has its own, and none is worth a run
            logging.warning("%s could not be removed: %s: %s", folder, type(error).__name__, error)
