"""A run's directory, which may be remote: gs://, s3:// or whatever etils.epath opens.

Metrics and lists grow line by line, which object stores cannot do. So those files are written to a local
mirror, and follow to the remote directory whenever a checkpoint is saved, and at the end. Checkpoints go there
directly, through orbax. A lease keeps a second machine off (`vitjax.lease`).

Of this module the copying, its failures and the change of machines are tested with a scheme of our own that
leads to a folder. No real bucket was ever opened by a test: gs:// needs gcsfs and credentials, s3:// needs s3fs.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from absl import logging
from etils import epath

from vitjax import devices, lease
from vitjax.errors import RunError, UserError

MIRRORS = "workdirs"  # in the cache folder
STAMP = ".mirror.json"  # which push the directory and its mirror are of
NOT_COPIED = re.compile(r"\.(new|partial|lock)$|(^|/)\.mirror\.json$")
CHECKPOINTS = "checkpoints"
# What processes other than the first read of a run beside its checkpoints: the config, to compare it with theirs.
FOR_ALL = ("config.json",)
RETRY_S = 60.0
CLOSE_S = 300.0  # for the last push; a scheduler that is less patient ends it earlier


class Workdir:
    """The directory of a run, and where this machine writes its files.

    The last machine that pushed is right: one that comes back with an older mirror gets the remote's files,
    and its own are kept beside, under '.old'.

    Attributes:
      path: as it was given; checkpoints live here.
      local: for all other files: the same directory, or its mirror.
      is_remote: whether they differ.
    """

    def __init__(self, path: str | Path):
        """
        Raises:
          UserError: no such kind of path.
        """
        self.is_remote = is_remote(path)
        self.path = opened(path)
        self.local = _mirror(str(path)) if self.is_remote else Path(path)
        self._pushed: dict[str, list[int]] = {}
        self._asked, self._closing, self._failed = threading.Event(), False, False
        self._thread: threading.Thread | None = None
        self._lease: lease.Lease | None = None

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keeps other runs off a remote directory while inside: to be entered before `fetch`.

        Raises:
          RunError: another machine's run is at work there, or `path` cannot be reached.
          UserError: another run of this machine is at work there.
        """
        with contextlib.ExitStack() as stack:
            if self.is_remote:
                folder = self.local.with_name(f"{self.local.name}.lease")
                try:
                    self._lease = stack.enter_context(lease.hold(self.path, folder))
                except (RunError, UserError):
                    raise
                except Exception as error:
                    raise self._unreachable(error) from error
            yield

    def fetch(self) -> None:
        """Makes `local` as new as `path`: to be called before a run reads or writes anything.

        What lies directly in `path` comes back; of folders their names alone. A hundred processes do not each
        fetch all logs: others than the first get FOR_ALL.

        Raises:
          RunError: `path` cannot be reached, now.
        """
        if not self.is_remote:
            return
        try:
            there, here = _stamp(self.path), _stamp(self.local)
            if self.local.exists() and there.get("push") == here.get("push"):
                self._pushed = here.get("files", {})
            else:
                self._take_over(there)
        except Exception as error:
            raise self._unreachable(error) from error

    def push(self) -> None:
        """Lets what changed follow to `path`, in the background; process 0 alone does it.

        A push that fails is a warning, and is tried again: it never ends a run.

        Raises:
          RunError: another machine has taken the directory over.
        """
        if not self.is_remote or jax.process_index():
            return
        self._refuse_lost()
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="vitjax-workdir", daemon=True)
            self._thread.start()
        self._asked.set()

    def close(self) -> None:
        """Pushes what is left, once more if that fails, and returns when it is there or is given up."""
        self.push()
        if self._thread is None:
            return
        self._closing = True
        self._asked.set()
        self._thread.join(CLOSE_S)
        if self._failed or self._thread.is_alive():
            logging.error(
                "%s lacks the newest logs: they are in %s, and follow when the same command runs again on this "
                "machine", self.path, self.local,
            )  # fmt: skip
        self._thread = None

    def _refuse_lost(self) -> None:
        if self._lease is not None:
            self._lease.refuse_lost()

    def _unreachable(self, error: Exception) -> RunError:
        return RunError(
            f"--workdir={self.path} cannot be opened: {type(error).__name__}: {error}; check the name, the "
            "network and the credentials (gs:// needs `pip install gcsfs`, s3:// needs `pip install s3fs`)"
        )

    def _take_over(self, there: dict[str, Any]) -> None:
        """Replaces the mirror by what is in `path`; a kill in between leaves the mirror as it was."""
        partial = self.local.with_name(self.local.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        self._pushed = {}
        for item in self.path.iterdir() if self.path.exists() else ():
            if item.name in (CHECKPOINTS, STAMP, lease.FILE) or (jax.process_index() and item.name not in FOR_ALL):
                continue
            if item.is_dir():
                (partial / item.name).mkdir()
            else:
                (partial / item.name).write_bytes(item.read_bytes())
                self._pushed[item.name] = _state(partial / item.name)
        _write_stamp(partial, there.get("push"), self._pushed)
        if self.local.exists():
            old = self.local.with_name(self.local.name + ".old")
            shutil.rmtree(old, ignore_errors=True)
            self.local.rename(old)
        partial.rename(self.local)

    def _follow(self) -> None:
        """What the thread does: pushes when asked, and some time after a failure."""
        while True:
            self._asked.wait(RETRY_S if self._failed else None)
            self._asked.clear()
            last = self._closing
            self._try()
            if last:
                if self._failed:
                    self._try()
                return

    def _try(self) -> None:
        try:
            self._copy_changed()
            self._failed = False
        except Exception as error:
            self._failed = True
            logging.warning(
                "%s could not be written, and the run goes on (%s: %s); its logs are in %s",
                self.path, type(error).__name__, error, self.local,
            )  # fmt: skip

    def _copy_changed(self) -> None:
        """Copies the files whose time or size is another than at the last push."""
        self._refuse_lost()
        changed = False
        for file in sorted(self.local.rglob("*")):
            name = file.relative_to(self.local).as_posix()
            if NOT_COPIED.search(name) or not file.is_file():
                continue
            state = _state(file)
            if self._pushed.get(name) != state:
                target = self.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
                self._pushed[name], changed = state, True
        if changed:
            # There first: after a kill in between, what is there counts, and it is whole.
            push = uuid.uuid4().hex
            _write_stamp(self.path, push, {})
            _write_stamp(self.local, push, self._pushed)


def is_remote(path: str | Path) -> bool:
    """Whether `path` names a scheme, such as gs://."""
    return "://" in str(path)


def opened(path: str | Path) -> epath.Path:
    """`path` to read from, local or remote.

    Raises:
      UserError: no such kind of path.
    """
    try:
        return epath.Path(path)
    except (KeyError, ValueError) as error:
        scheme = str(path).split("://")[0]
        raise UserError(f"{path}: there is no {scheme}://; gs:// and s3:// can be read, and local paths") from error


def _mirror(path: str) -> Path:
    """The mirror of `path`; each process of a machine has its own."""
    name = hashlib.sha256(path.rstrip("/").encode()).hexdigest()[:16]
    process = f"-{jax.process_index()}" if jax.process_index() else ""
    return devices.cache_folder() / MIRRORS / (name + process)


def _state(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_mtime_ns, found.st_size]


def _stamp(directory: Any) -> dict[str, Any]:
    """What `_write_stamp` wrote; empty where there is nothing, or a kill left half of it."""
    try:
        return json.loads((directory / STAMP).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _write_stamp(directory: Any, push: str | None, files: dict[str, list[int]]) -> None:
    text = json.dumps({"push": push, "files": files})
    if isinstance(directory, Path):
        partial = directory / f"{STAMP}.partial"
        partial.write_text(text)
        os.replace(partial, directory / STAMP)
    else:
        (directory / STAMP).write_text(text)
