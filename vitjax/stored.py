"""What lies in a run's folder of checkpoints: which steps, what each one holds, and whether it is all there.

Only names and metadata are read here, without jax and without orbax, so that a look at a live run costs nothing.
"""

import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from etils import epath

from vitjax.errors import UserError

FOLDER = "checkpoints"
ITEMS = ("params", "extra", "opt")
FORMAT = 2
DAMAGED = ".damaged"  # set aside: not read again, and not removed
REMOVED = ".removed"  # on its way out
UNFINISHED = ".orbax-checkpoint-tmp"
_META = "_CHECKPOINT_METADATA"
_COMMITTED = "commit_success.txt"

T = TypeVar("T")


class Damaged(UserError):
    """A checkpoint cannot be read as it was written; an older one may do."""

    def __init__(self, folder: epath.Path, cause: str):
        super().__init__(
            f"the checkpoint {folder} cannot be read: {cause}; move the folder away to use the one before it"
        )
        self.folder, self.cause = folder, cause


class Incomplete(Damaged):
    """A folder has a checkpoint's name, but was never written to its end."""


class Meta(NamedTuple):
    """What a checkpoint says of itself.

    Attributes:
      shapes: item -> path -> [shape, dtype].
      sums: 'item/path' -> checksum, see `vitjax.checksums`.
      left_out: the batches that the run goes without from here on, see `vitjax.nonfinite`.
      written_s: when it was written, in seconds since 1970.
    """

    step: int
    shapes: dict[str, dict[str, list]]
    sums: dict[str, int]
    left_out: tuple[int, ...]
    written_s: float


def sealed(
    step: int, shapes: Mapping[str, Any], sums: Mapping[str, int], left_out: Sequence[int] = ()
) -> dict[str, Any]:
    """The metadata of a checkpoint as JSON, with a checksum of itself.

    Whatever a later format adds, `format` and `crc` keep their meaning: that is how this one is told from damage.
    """
    facts = {"format": FORMAT, "step": step, "shapes": shapes, "sums": sums, "left_out": list(left_out)}
    return facts | {"crc": _crc(facts)}


def read_meta(folder: epath.Path) -> Meta:
    """What `sealed` made, read back.

    Raises:
      Damaged: it is not what was written; Incomplete if the folder was never finished.
      UserError: it is of another format.
    """
    whole = _parsed(folder)
    facts, written_ns = whole.get("custom_metadata"), whole.get("commit_timestamp_nsecs")
    if not isinstance(facts, dict) or not isinstance(written_ns, int) or "format" not in facts:
        raise Incomplete(folder, "it was not written to its end, or not by vitjax")
    if "crc" in facts and facts["crc"] != _crc(facts):
        raise Damaged(folder, "its metadata are not what was written: their checksum differs")
    if facts["format"] != FORMAT:
        raise UserError(
            f"{folder} has format {facts['format']!r} and this version of vitjax reads format {FORMAT}: go on "
            "with the version that wrote it, or give another --workdir"
        )
    if "crc" not in facts or str(facts["step"]) != folder.name.split(".")[0]:
        raise Damaged(folder, "its metadata are not those of this step")
    # Older checkpoints of this format have no list.
    left_out = tuple(facts.get("left_out", ()))
    return Meta(facts["step"], facts["shapes"], facts["sums"], left_out, written_ns / 1e9)


def refuse_unwritten(folder: epath.Path) -> None:
    """
    Raises:
      Damaged: the folder that a save has just left is not all there.
    """
    missing = [item for item, leaves in read_meta(folder).shapes.items() if leaves and not (folder / item).is_dir()]
    if missing:
        raise Incomplete(folder, f"{', '.join(missing)} is missing")


def numbered(directory: str | epath.Path) -> list[int]:
    """The steps that folders in `directory` are named for, ascending, whatever is in them."""
    named = (path for path in _folders(directory) if path.name.isdecimal())
    return sorted(int(path.name) for path in named if path.is_dir() and _final(path))


def marked(directory: str | epath.Path, mark: str) -> list[epath.Path]:
    """The folders whose names say what became of them: DAMAGED or REMOVED."""
    return [path for path in _folders(directory) if mark in path.name]


def unfinished(directory: str | epath.Path) -> list[epath.Path]:
    """What killed processes left half written, or what one is writing now."""
    return [path for path in _folders(directory) if UNFINISHED in path.name or not _final(path)]


def complete_steps(directory: str | epath.Path) -> list[int]:
    """The steps whose checkpoints are all there, oldest first."""
    return [step for step in numbered(directory) if _is_complete(at(directory, step))]


def latest_step(directory: str | epath.Path) -> int | None:
    """The newest step whose checkpoint is all there, or None."""
    steps = reversed(numbered(directory))
    return next((step for step in steps if _is_complete(at(directory, step))), None)


def at(directory: str | epath.Path, step: int) -> epath.Path:
    """The folder of a step."""
    return epath.Path(directory).absolute() / str(step)


def complete(directory: str | epath.Path, step: int | None) -> epath.Path:
    """The folder of a complete checkpoint, the newest by default.

    Raises:
      UserError: there is none.
    """
    step = latest_step(directory) if step is None else step
    if step is None:
        raise _none(directory)
    try:
        read_meta(at(directory, step))
    except Incomplete as error:
        have = ", ".join(map(str, complete_steps(directory))) or "none"
        raise UserError(
            f"{error.folder} is not a complete checkpoint: {error.cause}; {directory} holds those of steps {have}"
        ) from error
    return at(directory, step)


def newest(directory: str | epath.Path, read: Callable[[epath.Path], T]) -> T:
    """What `read` makes of the newest checkpoint that it can read; a line on stderr for each one passed over.

    Nothing is changed on the disk, and a run may go on writing there.

    Raises:
      UserError: there is none.
    """
    tried: list[int] = []
    # Listed anew each time: a live run removes old checkpoints and adds new ones.
    while left := [step for step in numbered(directory) if step not in tried]:
        tried.append(left[-1])
        try:
            return read(at(directory, left[-1]))
        except Damaged as error:
            print(f"{error.folder} is passed over: {error.cause}", file=sys.stderr, flush=True)
    raise _none(directory, tried)


def move_aside(folder: epath.Path) -> epath.Path:
    """Where a damaged checkpoint lies from now on: nothing reads or removes it there."""
    number, target = 1, folder.with_name(folder.name + DAMAGED)
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}{DAMAGED}.{number}")
    return folder.rename(target)


def retire(folder: epath.Path) -> epath.Path:
    """Where a checkpoint that may go lies from now on, no longer under a checkpoint's name.

    A kill in the middle of a removal must not leave half a folder that looks whole.
    """
    if _is_remote(folder):
        (folder / _COMMITTED).unlink(missing_ok=True)  # to rename would be to copy
        return folder
    return folder.rename(folder.with_name(folder.name + REMOVED))


def size_bytes(folder: epath.Path) -> int:
    """What a folder takes on the disk; what a live run removes meanwhile takes nothing."""
    try:
        return sum(size_bytes(path) if path.is_dir() else path.stat().length for path in folder.iterdir())
    except FileNotFoundError:
        return 0


def _none(directory: Any, tried: list[int] | None = None) -> UserError:
    if tried:
        return UserError(
            f"none of the checkpoints in {directory} can be read (steps {', '.join(map(str, tried))}: see above)"
        )
    return UserError(f"{directory} holds no complete checkpoint; give the --workdir of a run that saved")


def _parsed(folder: epath.Path) -> dict[str, Any]:
    """The metadata file, which orbax writes; whole or not at all."""
    try:
        found = json.loads((folder / _META).read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Incomplete(folder, f"it has no {_META}") from error
    except PermissionError as error:
        raise UserError(f"{folder} cannot be opened: {error.strerror}; allow this user to read it") from error
    except (OSError, ValueError) as error:
        raise Damaged(folder, f"{_META}: {error}") from error
    return found if isinstance(found, dict) else {}


def _crc(facts: Mapping[str, Any]) -> int:
    """The checksum of metadata, their own `crc` left out."""
    text = json.dumps({key: value for key, value in facts.items() if key != "crc"}, sort_keys=True)
    return zlib.crc32(text.encode())


def _is_complete(folder: epath.Path) -> bool:
    try:
        return bool(read_meta(folder))
    except UserError:
        return False


def _folders(directory: str | epath.Path) -> list[epath.Path]:
    directory = epath.Path(directory).absolute()
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _final(folder: epath.Path) -> bool:
    """Whether a folder's name says that it is finished; remote stores cannot rename, and get a file instead."""
    return not _is_remote(folder) or not folder.name.isdecimal() or (folder / _COMMITTED).exists()


def _is_remote(folder: epath.Path) -> bool:
    return "://" in str(folder)
