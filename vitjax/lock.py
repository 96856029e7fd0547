"""One process at a time on a run's directory."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import jax
from absl import logging

from vitjax.errors import UserError

FILE = ".lock"


@contextlib.contextmanager
def hold(workdir: Path, shown: Any = None) -> Iterator[None]:
    """Keeps other runs off `workdir` while inside; on processes of a run other than the first it does nothing.

    The operating system frees the lock with the process, however that ends, so that a killed run leaves
    nothing to clean up.

    Args:
      shown: what the user calls it; `workdir` where that is no mirror of it.

    Raises:
      UserError: another run is alive there, or a file is in its place.
    """
    if jax.process_index():
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"--workdir={workdir}: a file is in the way; give a directory") from error
    with open(workdir / FILE, "a+") as file:
        _take(file, shown or workdir)
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}, file)
        file.flush()
        yield
        file.truncate(0)


def _take(file: IO[str], workdir: Any) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"--workdir={workdir}: another run is at work there ({_holder(file)}); wait for it, stop it, "
            "or give another --workdir"
        ) from error
    except OSError as error:
        # Some network file systems have no locks; a run is worth more than this guard.
        logging.warning("%s cannot be locked (%s): see to it that no second run uses it", workdir, error)


def _holder(file: IO[str]) -> str:
    """Who wrote the lock's file."""
    try:
        file.seek(0)
        there = json.load(file)
        return f"process {there['pid']} on {there['host']} since {there['since']}"
    except (ValueError, KeyError):
        return "a process that has just started"
