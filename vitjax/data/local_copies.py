"""Copies of remote files, for readers that open local paths only, in a folder of bounded size.

A global shuffle meets all files of a set in no order. A cache that is smaller than the set would fetch a shard for
each picture, so it is refused, and nothing is ever thrown out to make room: another run may be reading it.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from vitjax.data import cache, files
from vitjax.errors import UserError

_AT_ONCE = 16  # requests and copies
_PART = ".part"
_log = logging.getLogger(__name__)


class _Copy(NamedTuple):
    url: str
    path: Path
    size: int
    version: str

    @property
    def mark(self) -> Path:
        """The file that says which version of the remote file was copied."""
        return self.path.with_name(f".{self.path.name}.version")

    @property
    def is_there(self) -> bool:
        try:
            return self.path.stat().st_size == self.size and self.mark.read_text() == self.version
        except OSError:
            return False


def ensure(urls: list[str], cache_dir: str, cache_gb: float) -> list[str]:
    """Local paths with the content of these files, of the same names; files of one folder are in one folder.

    What is there already and has not changed is not copied again. Of several processes on a machine one copies, and
    the others wait for it.

    Raises:
      UserError: the cache is smaller than the files, cannot be written, or a file cannot be copied.
    """
    root = cache.folder(cache_dir) / "copies"
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            copies = list(pool.map(lambda url: _planned(url, root), urls))
            _refuse_small(copies, root, cache_gb)
            root.mkdir(parents=True, exist_ok=True)
            with _alone(root):
                missing = [copy for copy in copies if not copy.is_there]
                if missing:
                    _refuse_full(copies, missing, root, cache_gb)
                    size = sum(copy.size for copy in missing)
                    _log.info("copying %d files, %s, to %s", len(missing), _gb(size), root)
                    list(pool.map(_make, missing))
        except OSError as error:
            raise UserError(
                f"config.data.cache_dir={cache_dir!r}: cannot keep copies in {root} ({error}); name a folder that "
                "can be written and has room, or copy the set yourself and give its path"
            ) from error
    return [str(copy.path) for copy in copies]


def _planned(url: str, root: Path) -> _Copy:
    folder, name = url.rsplit("/", 1)
    place = root / hashlib.sha256(folder.encode()).hexdigest()[:16]
    return _Copy(url, place / name, files.size(url), files.version(url))


def _make(copy: _Copy) -> None:
    copy.path.parent.mkdir(exist_ok=True)
    part = copy.path.with_name(copy.path.name + _PART)
    try:
        files.copy(copy.url, str(part))
        # Without its mark a copy counts as absent: whenever this is cut short, the next run makes it again.
        copy.mark.unlink(missing_ok=True)
        os.replace(part, copy.path)
        cache.put(copy.mark, copy.version.encode())
    finally:
        part.unlink(missing_ok=True)


def _refuse_small(copies: list[_Copy], root: Path, cache_gb: float) -> None:
    needed = sum(copy.size for copy in copies)
    if needed > cache_gb * 1e9:
        raise UserError(
            f"config.data.cache_gb={cache_gb:g} is smaller than the set: {os.path.dirname(copies[0].url)} has "
            f"{_gb(needed)} that must be copied to {root} to be read in any order; raise it, or copy the set to a "
            "disk yourself"
        )


def _refuse_full(copies: list[_Copy], missing: list[_Copy], root: Path, cache_gb: float) -> None:
    """Raises:
    UserError: beside the copies of other sets there is no room.
    """
    ours = {copy.path for copy in copies}
    others = sum(p.stat().st_size for p in root.glob("*/*") if p not in ours)
    needed, free = sum(copy.size for copy in copies), shutil.disk_usage(root).free
    if others + needed > cache_gb * 1e9:
        raise UserError(
            f"config.data.cache_gb={cache_gb:g}: {root} holds {_gb(others)} of other copies, and this set needs "
            f"{_gb(needed)}; remove what no run reads any more, or raise it"
        )
    if sum(copy.size for copy in missing) > free:
        raise UserError(
            f"config.data.cache_dir: {root} has {_gb(free)} left on its disk, and the set needs {_gb(needed)}; "
            "name a folder on a larger disk"
        )


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keeps other processes from copying while inside, and clears away what dead ones left half copied."""
    with open(root / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems have no locks: copies are made twice, and are right
            _log.warning("%s cannot be locked (%s)", root, error)
        else:
            for part in root.glob(f"*/*{_PART}"):
                part.unlink(missing_ok=True)
        yield


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
