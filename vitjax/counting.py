"""One line that says how far a pass over pictures is: redrawn on a terminal, seldom printed elsewhere."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from vitjax.progress import BAR, REDRAW_S, SAY_S, duration


class Counting:
    """Call it with how many of `total` are done; as a context it ends with the last word.

    Args:
      title: what is counted, 'train' for one.
      stream: standard error by default, so that what a command prints stays clean.
    """

    def __init__(
        self,
        title: str,
        total: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._title, self._total, self._clock = title, total, clock
        self._stream = sys.stderr if stream is None else stream
        self._done, self._began = 0, clock()
        self._redraws = self._stream.isatty()
        self._said_at = self._began

    def __call__(self, done: int) -> None:
        self._done = done
        if self._clock() - self._said_at >= (REDRAW_S if self._redraws else SAY_S):
            self._say()

    @property
    def per_s(self) -> float:
        """Pictures a second so far."""
        return self._done / max(self._clock() - self._began, 1e-9)

    def line(self) -> str:
        """'train  512/2,048 (25%)  300 pictures/s  5 s to go'."""
        percent = 100 * self._done // max(self._total, 1)
        parts = [self._title, f"{self._done:,}/{self._total:,} ({percent}%)", f"{self.per_s:,.0f} pictures/s"]
        if 0 < self._done < self._total:
            parts.append(f"{duration((self._total - self._done) / self.per_s)} to go")
        return "  ".join(parts)

    def __enter__(self) -> "Counting":
        return self

    def __exit__(self, *_) -> None:
        self._say()
        if self._redraws:
            print(file=self._stream, flush=True)

    def _say(self) -> None:
        self._said_at = self._clock()
        if not self._redraws:
            print(self.line(), file=self._stream, flush=True)
            return
        done = BAR * self._done // max(self._total, 1)
        text = f"[{'#' * done}{'.' * (BAR - done)}] {self.line()}"
        print(
            f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K", end="", file=self._stream, flush=True
        )
