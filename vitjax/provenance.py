"""Where a run came from: history.jsonl, one line for each start of it."""

import importlib.metadata
import json
import platform
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

FILE = "history.jsonl"
PACKAGES = ("vitjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
GIT_TIMEOUT_S = 5.0


def record(workdir: Path, first_step: int, changed: Mapping[str, str]) -> None:
    """Adds this start to the history of the run, on the first process.

    Args:
      first_step: the step that it goes on from.
      changed: setting -> 'before -> now', of what differs from the start before.
    """
    if jax.process_index():
        return
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "first_step": first_step,
        "command": shlex.join(sys.orig_argv),
        "changed": dict(changed),
        "git": commit(),
        "versions": versions(),
        "host": socket.gethostname(),
        "processes": jax.process_count(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    with open(workdir / FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def versions() -> dict[str, str]:
    """Package -> installed version, and Python's own."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def commit() -> dict[str, Any] | None:
    """{'commit', 'modified'} of the checkout that this code, or the current directory, lies in; None without one."""
    for folder in (Path(__file__).parent, Path.cwd()):
        head = _git(folder, "rev-parse", "HEAD")
        if head:
            changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
            return {"commit": head, "modified": bool(changes)}
    return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
