"""One machine at a time on a run's remote directory, where no operating system keeps locks.

A small file there says whose run is at work, and when it last was alive. While the run lives a thread renews it;
a run that is killed leaves it behind, and after FRESH_S of silence anybody may take it over. The clocks of the
machines have to agree to a minute or so.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from absl import logging

from vitjax import lock, multihost
from vitjax.errors import RunError
from vitjax.progress import duration

FILE = ".lease.json"
REFRESH_S = 30.0
FRESH_S = 180.0  # several renewals may fail in a row; and a preempted run may have to wait so long for its successor
LEAVE_S = 10.0  # for a renewal that is on its way when the run ends


class Taken(RunError):
    """Another machine's run is at work in the directory."""

    exit_code = 75  # as for a process that was lost: later on the same command may well succeed


class Lease:
    """This machine's claim on `directory`; see `hold`."""

    def __init__(self, directory: Any, machine: str):
        self._directory, self._file = directory, directory / FILE
        self._mine = {"id": machine, "host": socket.gethostname(), "pid": os.getpid()}
        self._mine["since"] = time.strftime("%F %T")
        self._lost: dict[str, Any] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="vitjax-lease", daemon=True)

    def refuse_lost(self) -> None:
        """
        Raises:
          RunError: another machine has taken the directory over.
        """
        if self._lost:
            raise RunError(
                f"{self._directory} was taken over by {_owner(self._lost)}: this run could not renew {FILE} for "
                f"{FRESH_S:.0f} s, or both began at once; it ends here, so that the two do not write over each other"
            )

    def take(self) -> None:
        """Claims the directory, and goes on doing so in the background.

        Raises:
          Taken: another machine's run was alive a moment ago.
        """
        there = self._read()
        if there is not None and not self._is_mine(there):
            silent_s = max(0.0, time.time() - there["time"])
            if silent_s < FRESH_S:
                raise self._taken(there, silent_s)
            multihost.say(
                f"{self._directory} is taken over: {_owner(there)} gave no sign of life for {duration(silent_s)}."
            )
        self._write()
        # Of two that start at the same time the last to write has it; the other learns it here, or when it renews.
        there = self._read()
        if there is not None and not self._is_mine(there):
            raise self._taken(there, 0.0)
        self._thread.start()

    def give_back(self) -> None:
        """Lets the next one in at once."""
        self._over.set()
        if self._thread.ident is None:  # never taken
            return
        self._thread.join(LEAVE_S)
        try:
            if self._is_mine(self._read() or {}):
                self._file.unlink(missing_ok=True)
        except Exception as error:
            logging.warning("%s could not be removed (%s): it is in the way for %d s", self._file, error, FRESH_S)

    def _renew(self) -> None:
        """What the thread does, until another machine has taken over."""
        failing = False
        while not self._over.wait(REFRESH_S):
            try:
                there = self._read()
                if there is not None and not self._is_mine(there):
                    self._lost = there
                    return
                self._write()
                failing = False
            except Exception as error:  # whatever a remote file system raises: the next time may do
                if not failing:
                    logging.warning("%s could not be renewed: %s: %s", self._file, type(error).__name__, error)
                failing = True

    def _read(self) -> dict[str, Any] | None:
        try:
            there = json.loads(self._file.read_text())
            return there if isinstance(there["time"], int | float) else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self._mine | {"time": time.time()}))

    def _is_mine(self, there: dict[str, Any]) -> bool:
        """Whether a run on this machine wrote it, now or before it was killed."""
        return all(there.get(name) == self._mine[name] for name in ("id", "host"))

    def _taken(self, there: dict[str, Any], silent_s: float) -> Taken:
        return Taken(
            f"--workdir={self._directory}: another run is at work there, {_owner(there)}, alive {silent_s:.0f} s ago; "
            f"wait for it, stop it, or give another --workdir. If it was killed, the same command goes on in "
            f"{FRESH_S - silent_s:.0f} s, or at once when {self._file} is removed"
        )


@contextlib.contextmanager
def hold(directory: Any, folder: Path) -> Iterator[Lease | None]:
    """Keeps other runs off the remote `directory` while inside; on processes other than the first it does nothing.

    Args:
      folder: on this machine, for a lock against its other runs, and the name under which they write the lease:
        one that was killed here is followed at once.

    Raises:
      Taken: another machine's run is at work there.
      UserError: another run of this machine is.
    """
    if jax.process_index():
        yield None
        return
    with lock.hold(folder, shown=directory):
        lease = Lease(directory, _machine(folder))
        try:
            lease.take()
            yield lease
        finally:
            lease.give_back()


def _machine(folder: Path) -> str:
    """A name for this machine's runs in a directory, the same for each of them."""
    file = folder / "machine"
    if not file.exists():
        file.write_text(uuid.uuid4().hex)
    return file.read_text()


def _owner(there: dict[str, Any]) -> str:
    return f"process {there.get('pid')} on {there.get('host')} since {there.get('since')}"
