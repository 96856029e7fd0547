"""What a run writes about itself: metrics.jsonl (the truth), TensorBoard events, and pictures/.

A resumed run leaves no step twice: what was written after the checkpoint that it resumes from moves to
metrics.discarded.jsonl, and TensorBoard is told to forget it.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jaxtyping import UInt8

from vitjax import jsonl
from vitjax.picture import save_png

METRICS = "metrics.jsonl"
DISCARDED = "metrics.discarded.jsonl"
EVALUATIONS = "evaluations.jsonl"  # of `vitjax.evaluate`, which runs after training
EVENTS = "tensorboard"
PICTURES = "pictures"


class MetricsWriter:
    """Writes the metrics of a run; on processes other than the first it does nothing.

    What is written for one step at several times (training, then an evaluation, even after a restart)
    becomes one line. It goes to the disk when a later step is written, and on `flush` and `close`.
    """

    def __init__(self, workdir: str | Path, first_step: int = 0):
        """
        Args:
          workdir: the run's directory; made if it is not there.
          first_step: the step that the run goes on from; later lines of an earlier attempt are discarded.
        """
        self._active = jax.process_index() == 0
        self._workdir = Path(workdir)
        self._step = first_step
        if not self._active:
            return
        # Here, because it takes half a second to import and readers of metrics do not need it.
        from tensorboardX import SummaryWriter

        self._workdir.mkdir(parents=True, exist_ok=True)
        discard_after(self._workdir, first_step)
        self._file = open(self._workdir / METRICS, "a+b")
        self._reopen_last_line()
        purge = first_step + 1 if (self._workdir / EVENTS).exists() else None
        # Files are named for the second in which they are made: the suffix keeps two attempts apart.
        suffix = f".{first_step:08d}"
        self._events = SummaryWriter(str(self._workdir / EVENTS), purge_step=purge, filename_suffix=suffix)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds the numbers of `step`; one written again for the same step replaces the first.

        A number that is not finite is null in metrics.jsonl, which must stay JSON; a warning names it.

        Raises:
          ValueError: `step` lies before a step that was written already.
        """
        if step < self._step:
            raise ValueError(f"metrics of step {step} come after those of step {self._step}")
        if not self._active:
            return
        if step > self._step:
            self._write_line()
            self._step, self._row, self._line = step, {}, self._file.seek(0, os.SEEK_END)
        numbers = {name: _number(value) for name, value in metrics.items()}
        bad = [name for name, value in numbers.items() if not math.isfinite(value)]
        if bad:
            logging.warning("step %d: %s not finite", step, ", ".join(f"{n}={numbers[n]}" for n in bad))
        for name, value in numbers.items():
            self._row[name] = value if math.isfinite(value) else None
            self._events.add_scalar(name, value, step)

    def has(self, step: int, name: str) -> bool:
        """Whether `name` was written for `step`, the current one."""
        return self._active and step == self._step and name in self._row

    def picture(self, step: int, name: str, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """Writes pictures/<name>_<step>.png, and the same into the events."""
        if not self._active:
            return
        save_png(self._workdir / PICTURES / f"{name}_{step:08d}.png", picture)
        self._events.add_image(name, picture, step, dataformats="HWC")

    def flush(self) -> None:
        """Puts everything on the disk: to be called when a checkpoint is saved, and before a pause."""
        if self._active:
            self._write_line()
            self._events.flush()

    def close(self) -> None:
        """Flushes; nothing can be written afterwards."""
        if self._active:
            self.flush()
            self._file.close()
            self._events.close()
            self._active = False

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _write_line(self) -> None:
        """Puts the line of the current step on the disk, in place of what of it was there."""
        if self._row:
            line = json.dumps({"step": self._step, **self._row}, allow_nan=False) + "\n"
            self._file.truncate(self._line)
            self._file.write(line.encode())
            self._file.flush()

    def _reopen_last_line(self) -> None:
        """Goes on with the line of the step that the run resumes from, so that it can still be added to."""
        self._file.seek(0)
        lines = self._file.readlines()
        row = jsonl.parsed(lines[-1].decode()) if lines else None
        if row and row["step"] == self._step:
            del row["step"]
            self._row, self._line = row, self._file.tell() - len(lines[-1])
        else:
            self._row, self._line = {}, self._file.tell()


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; what a killed process left half written is passed over."""
    return [row for row in jsonl.read(epath.Path(workdir) / METRICS) if isinstance(row.get("step"), int)]


def discard_after(workdir: str | Path, step: int) -> int:
    """How many lines beyond `step` were moved from metrics.jsonl to metrics.discarded.jsonl.

    A kill at any moment loses no line: they are added to the side file before the new file takes the
    place of the old one.
    """
    file = Path(workdir) / METRICS
    if not file.exists():
        return 0
    rows = read_metrics(workdir)
    kept = [row for row in rows if row["step"] <= step]
    discarded = [row for row in rows if row["step"] > step]
    if discarded:
        with open(file.with_name(DISCARDED), "a", encoding="utf-8") as side:
            side.writelines(json.dumps(row) + "\n" for row in discarded)
    new = file.with_name(METRICS + ".new")
    new.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    os.replace(new, file)
    return len(discarded)


def _number(value: Any) -> int | float:
    """A python number: whole numbers (counts) stay whole."""
    value = np.asarray(value).item()
    return int(value) if isinstance(value, bool) else value
