"""What a run shows while it runs: one line that is redrawn on a terminal, plain lines elsewhere.

The time to go is the recent rate of steps plus the share of time that evaluations took so far, so that it is
right before the last evaluation and not only after it. Before the first one it says that it does not know.
"""

import collections
import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

import jax

# The rate is that of the last WINDOW samples, which are at least SAMPLE_S apart: about a minute.
WINDOW = 120
SAMPLE_S = 0.5
REDRAW_S = 0.2
# What is done beside the steps is said this often where it is a line each time.
SAY_S = 30.0
BAR = 20


class Progress:
    """Tells how far a run is, how fast, what slows it, and when it will be done; prints on process 0 only.

    `bad_records`, `refused` (updates) and the names of `alarms` are shown while there are any; whoever knows of
    them sets them.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        first_step: int = 0,
        batch_size: int,
        flops_per_step: float | None = None,
        peak_flops: float | None = None,
        evaluates: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """
        Args:
          first_step: steps done by earlier attempts.
          flops_per_step: of the global batch; with `peak_flops` it gives the MFU.
          peak_flops: of all devices together, or None where it is not known.
          evaluates: an evaluation ends the run; until one has been timed, the time to go says that it lacks it.
          stream: standard output by default.
        """
        self.bad_records = 0
        self.refused = 0
        self.alarms: tuple[str, ...] = ()
        self._total = total_steps
        self._first = self._step = first_step
        self._batch_size = batch_size
        self._evaluates = evaluates
        self._mfu_per_rate = flops_per_step / peak_flops if flops_per_step and peak_flops else None
        self._stream = sys.stdout if stream is None else stream
        self._active = jax.process_index() == 0
        self._redraws = self._active and self._stream.isatty()
        self._clock = clock
        self._paused_s = 0.0
        self._paused_until = first_step
        self._waited_s = 0.0
        self._samples: collections.deque[tuple[int, float]] = collections.deque(maxlen=WINDOW)
        self._reported: tuple[int, float, float] | None = None
        self._loss: float | None = None
        self._numbers: dict[str, float] = {}
        self._drawn_at = -REDRAW_S
        self._said_at = -SAY_S

    def step(self, step: int, waited_s: float) -> None:
        """Notes that `step` is done and that the loop stood waiting `waited_s` for its batch."""
        self._step = step
        now = self._training_s()
        if self._reported is None:
            # Time counts from the end of the first step: compilation and the loader's start are over then.
            self._reported = step, now, self._waited_s
        else:
            self._waited_s += waited_s
        if not self._samples or now - self._samples[-1][1] >= SAMPLE_S:
            self._samples.append((step, now))
        if self._redraws and self._clock() - self._drawn_at >= REDRAW_S:
            self._draw()

    def report(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Shows the loss, and returns what is to be logged beside it.

        These are 'pictures_per_s', 'ms_per_step', 'data_wait' (the share of time) and, where it is known,
        'mfu', all since the last report; nothing before two steps are done. The rates are those of all
        processes together, which step in time; 'data_wait' is this process's own.
        """
        self._loss = metrics["loss"] if "loss" in metrics else None
        now = self._training_s()
        if self._reported is not None and step > self._reported[0]:
            before, then, waited = self._reported
            seconds = max(now - then, 1e-9)
            rate = (step - before) / seconds
            self._numbers = {"pictures_per_s": rate * self._batch_size, "ms_per_step": 1000 / rate}
            self._numbers["data_wait"] = min((self._waited_s - waited) / seconds, 1.0)
            if self._mfu_per_rate is not None:
                self._numbers["mfu"] = rate * self._mfu_per_rate
            self._reported = step, now, self._waited_s
        if self._redraws:
            self._draw()
        elif self._active:
            print(self.line(), file=self._stream, flush=True)
        return dict(self._numbers)

    @contextlib.contextmanager
    def paused(self, doing: str) -> Iterator[None]:
        """Time inside is not training time; it is expected again in the time to go."""
        before = self._clock()
        self._said_at, self._drawn_at = before - SAY_S, before - REDRAW_S
        self.doing(f"{doing} ...")
        try:
            yield
        finally:
            self._paused_s += self._clock() - before
            self._paused_until = self._step

    def doing(self, what: str) -> None:
        """Says what is done beside the steps; often on a terminal, else once in SAY_S at most."""
        now, line = self._clock(), f"step {self._step:,}: {what}"
        if self._redraws and now - self._drawn_at >= REDRAW_S:
            self._drawn_at = now
            self._put(line)
        elif self._active and not self._redraws and now - self._said_at >= SAY_S:
            self._said_at = now
            print(line, file=self._stream, flush=True)

    def say(self, text: str) -> None:
        """Prints `text` on lines of its own."""
        if self._redraws:
            self._put("")
        if self._active:
            print(text, file=self._stream, flush=True)

    def eta_s(self) -> float | None:
        """Seconds to go, evaluations at the rate of those so far included; None before two samples."""
        if len(self._samples) < 2:
            return None
        (step_a, time_a), (step_b, time_b) = self._samples[0], self._samples[-1]
        seconds = (time_b - time_a) / (step_b - step_a) * (self._total - self._step)
        if self._paused_until > self._first:
            per_step = self._paused_s / (self._paused_until - self._first)
            seconds += per_step * (self._total - self._paused_until)
        return seconds

    def line(self) -> str:
        """The state of the run in one line."""
        percent = 100 * self._step // max(self._total, 1)
        parts = [f"step {self._step:,}/{self._total:,} ({percent}%)"]
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4g}")
        numbers = self._numbers
        if numbers:
            parts.append(f"{numbers['pictures_per_s']:,.0f} pictures/s")
            parts.append(f"{numbers['ms_per_step']:,.0f} ms/step")
            parts.append(f"waiting for data {100 * numbers['data_wait']:.0f}%")
        if "mfu" in numbers:
            parts.append(f"MFU {100 * numbers['mfu']:.0f}%")
        if self.bad_records:
            parts.append(f"{self.bad_records:,} bad records")
        if self.refused:
            parts.append(f"{self.refused:,} updates refused")
        if self.alarms:
            parts.append(f"ALARM {', '.join(self.alarms)}")
        left = self.eta_s()
        if left is not None:
            untimed = self._evaluates and self._paused_until == self._first
            parts.append(f"{duration(left)} to go{' + evaluation' if untimed else ''}")
        return "  ".join(parts)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._redraws:
            self._draw()
            print(file=self._stream, flush=True)

    def _training_s(self) -> float:
        return self._clock() - self._paused_s

    def _draw(self) -> None:
        self._drawn_at = self._clock()
        done = BAR * self._step // max(self._total, 1)
        self._put(f"[{'#' * done}{'.' * (BAR - done)}] {self.line()}")

    def _put(self, text: str) -> None:
        """Replaces the line on the terminal; a line that wrapped could not be replaced, so it is cut."""
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]}\x1b[K", end="", file=self._stream, flush=True)


def start_table(facts: Mapping[str, Any]) -> str:
    """The facts as lines of two aligned columns."""
    width = max(map(len, facts), default=0)
    indent = "\n" + " " * (width + 4)
    lines = {name: str(value).replace("\n", indent) for name, value in facts.items()}
    return "\n".join(f"  {name:{width}}  {text}" for name, text in lines.items())


def duration(seconds: float) -> str:
    """'48 s', '3 min 20 s', '5 h 07 min', '2 d 03 h'."""
    whole = round(seconds)
    for unit, parts, first, second in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= unit:
            return f"{whole // unit} {first} {whole % unit // parts:02d} {second}"
    return f"{whole} s"
