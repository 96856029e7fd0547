"""Scenes drawn once and kept: one .npy file of uint8 pictures for each (version, seed, split, size).

A file holds pictures 0..n-1, so a smaller wish is a prefix of it and a larger one draws only what is missing.
It is written beside its place and moved there whole: whoever opens it at any moment, in any process, sees
complete pictures, and two that draw at once do double work and no harm.

`python -m vitjax.data.scenes_cache PATH SEED SPLIT SIZE_PX START STOP` draws a part of a file that exists: so
the work is shared over processes without importing the caller's program again, as multiprocessing would.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vitjax.data import scenes, scenes_draw
from vitjax.data.cache import folder
from vitjax.errors import UserError

_PART = 512  # pictures between two reports of progress
_SHARED_FROM_BYTES = 100_000_000  # below, starting a second process costs more than it saves


def open_pictures(path: Path, count: int) -> UInt8[np.ndarray, "count S S 3"]:
    """The first `count` pictures of a file that `ensure` has seen, mapped rather than read."""
    return np.load(path, mmap_mode="r")[:count]


def ensure(cache_dir: str, seed: int, split: str, size_px: int, count: int) -> Path:
    """The file that holds at least `count` right pictures, drawn first where it does not exist.

    Raises:
      UserError: the folder cannot be written.
    """
    directory = folder(cache_dir)
    path = directory / f"scenes-v{scenes.VERSION}-seed{seed}-{split}-{size_px}px.npy"
    kept = _sound_pictures(path, seed, split, size_px)
    if kept >= count:
        return path
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(path, kept, count, (seed, split, size_px))
    except OSError as error:
        raise UserError(
            f"config.data.cache_dir={cache_dir!r}: cannot keep drawn scenes in {directory} ({error}); "
            "name a folder that can be written, with --config.data.cache_dir or $VITJAX_CACHE"
        ) from error
    return path


def _sound_pictures(path: Path, seed: int, split: str, size_px: int) -> int:
    """How many pictures the file holds; 0 unless it is whole, and its first, middle and last are right.

    A difference of two grey levels is let pass: another machine's sine may round otherwise.
    """
    try:
        pictures = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return 0
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (size_px, size_px, 3) or not len(pictures):
        return 0
    probes = np.unique([0, len(pictures) // 2, len(pictures) - 1])
    drawn = scenes_draw.draw(scenes.sample(seed, split, probes), size_px)
    apart = np.abs(drawn.astype(np.int16) - pictures[probes])
    return len(pictures) if apart.max() <= 2 else 0


def _write(path: Path, kept: int, count: int, world: tuple[int, str, int]) -> None:
    """Puts a file of `count` pictures in its place, of which the present file's first `kept` are copied."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    size_px = world[2]
    try:
        with os.fdopen(handle):
            pictures = np.lib.format.open_memmap(name, "w+", np.uint8, (count, size_px, size_px, 3))
            if hasattr(os, "posix_fallocate"):  # else a full disk kills the process on its first write
                os.posix_fallocate(handle, 0, os.path.getsize(name))
        os.chmod(name, 0o644)  # temporary files are private, and a cache may be shared
        if kept:
            pictures[:kept] = np.load(path, mmap_mode="r")[:kept]
        _draw_shared(Path(name), pictures, kept, world)
        pictures.flush()
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _draw_shared(path: Path, pictures: np.ndarray, start: int, world: tuple[int, str, int]) -> None:
    """Draws pictures `start` and on into the mapped file, with one process a core where that pays."""
    seed, split, size_px = world
    shares = _cores() if pictures[start:].nbytes >= _SHARED_FROM_BYTES else 1
    ends = np.linspace(start, len(pictures), shares + 1).astype(int).tolist()
    command = [sys.executable, "-m", "vitjax.data.scenes_cache", str(path), str(seed), split, str(size_px)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    helpers = []
    try:
        for a, b in zip(ends[1:-1], ends[2:]):
            helpers.append(subprocess.Popen([*command, str(a), str(b)], env=environment))
        report = _Progress(f"drawing scenes ({split}, {size_px} px)", len(pictures) - start, shares)
        _draw_part(pictures, world, ends[0], ends[1], report)
        for helper, a, b in zip(helpers, ends[1:-1], ends[2:]):
            if helper.wait():  # killed for memory, perhaps: finish its share here
                _draw_part(pictures, world, a, b, report)
        report.finish()
    finally:
        for helper in helpers:
            helper.kill()
            helper.wait()


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _draw_part(
    pictures: np.ndarray, world: tuple[int, str, int], start: int, stop: int, report=lambda n: None
) -> None:
    """Draws pictures start..stop-1 into their places."""
    seed, split, size_px = world
    for at in range(start, stop, _PART):
        indices = np.arange(at, min(at + _PART, stop))
        pictures[at : at + len(indices)] = scenes_draw.draw(scenes.sample(seed, split, indices), size_px)
        report(len(indices))


class _Progress:
    """A line on stderr: rewritten as work goes on at a terminal, once at the end elsewhere; none if short."""

    def __init__(self, what: str, total: int, shares: int):
        self._what, self._total, self._shares = what, total, shares
        self._done, self._begun, self._shown = 0, time.monotonic(), False

    def __call__(self, count: int) -> None:
        self._done = min(self._done + count * self._shares, self._total)
        if sys.stderr.isatty() and time.monotonic() - self._begun > 0.5:
            self._shown = True
            print(f"\r{self._what}: {self._done:,} of {self._total:,}", end="", file=sys.stderr, flush=True)

    def finish(self) -> None:
        seconds = time.monotonic() - self._begun
        if self._shown or seconds > 1:
            start = "\r" if self._shown else ""
            rest = f"{self._total:,} in {seconds:.1f} s, kept for next time"
            print(f"{start}{self._what}: {rest}", file=sys.stderr)


def _main(path: str, seed: str, split: str, size_px: str, start: str, stop: str) -> None:
    """Draws one share, for a parent process; stops quietly with it on Ctrl-C."""
    pictures = np.load(path, mmap_mode="r+")
    try:
        _draw_part(pictures, (int(seed), split, int(size_px)), int(start), int(stop))
    except KeyboardInterrupt:
        sys.exit(130)
    pictures.flush()


if __name__ == "__main__":
    _main(*sys.argv[1:])
