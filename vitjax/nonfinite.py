"""Steps whose loss or gradient is not finite: written down, and then skipped, stopped at or taken back.

The step itself refuses such an update (`objective`): it advances the step and leaves all else. What a run does
about it is `config.nonfinite`:

  'skip'    goes on, and says so. MAX_IN_A_ROW refusals in a row end the run.
  'stop'    ends the run at the first one.
  'rewind'  goes back to the newest checkpoint and on without the batch that did it. `batch_of(step, left_out)`
            makes the order a function of the seed, the step and the list of such batches, which each checkpoint
            holds. A run that is interrupted before the next checkpoint meets the batch again, and leaves it out
            again, so that it ends as one that is not.

Each refusal is a line of nonfinite.jsonl, and `python -m vitjax.replay` runs that step again.
"""

import collections
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vitjax import jsonl, multihost
from vitjax.data.batches import batch_of
from vitjax.errors import RunError, UserError
from vitjax.loop import IN_FLIGHT, Event, Hook, step_key
from vitjax.objective import Metrics
from vitjax.progress import Progress

FILE = "nonfinite.jsonl"
KINDS = ("skip", "stop", "rewind")

# A bad picture or an unlucky draw refuses one update, a bad stretch of a set a few. Weights that are gone refuse
# all that follow, for ever: all these batches fail on the same weights, since a refusal leaves them as they are.
MAX_IN_A_ROW = 50


class Policy(NamedTuple):
    """What to do about a refused update, and how many batches a run may leave out in all."""

    kind: str
    max_rewinds: int


class Rewind(Exception):
    """The run is to go back to its newest checkpoint, and on without `batch`, which `step` met.

    Every process raises this at the same step.
    """

    def __init__(self, step: int, batch: int):
        super().__init__(f"step {step:,} was not finite: back to the newest checkpoint, and on without batch {batch:,}")
        self.step, self.batch = step, batch


def policy(config: Any) -> Policy:
    """What `config.nonfinite` and `config.max_rewinds` say.

    Raises:
      UserError: they say nothing that is known.
    """
    if config.nonfinite not in KINDS:
        raise UserError(f"config.nonfinite={config.nonfinite!r} must be one of {', '.join(KINDS)}")
    if config.max_rewinds < 0:
        raise UserError(f"config.max_rewinds={config.max_rewinds} must be at least 0")
    return Policy(config.nonfinite, config.max_rewinds)


def read(workdir: str | Path) -> list[dict[str, Any]]:
    """The refused updates that a run has written down."""
    return jsonl.read(Path(workdir) / FILE)


def hook(
    workdir: str | Path,
    source: Any,
    progress: Progress,
    policy: Policy,
    *,
    seed: int,
    left_out: Sequence[int],
    saves: Callable[[Event], bool],
    run: Any = None,
) -> Hook:
    """Looks at every step once its numbers are there, and does what `policy` says about a refused update.

    It must stand before the hook that saves: it looks at all steps when a checkpoint is due, so that none is
    saved that a rewind would have to pass over. At other steps it looks at those that the device has
    finished, IN_FLIGHT steps ago, and keeps nobody waiting.

    Args:
      left_out: the batches that this part of the run passes over.
      saves: whether a checkpoint is due.
      run: what the user calls the run; `workdir` where that is no mirror of it.

    Raises, from the hook:
      Rewind: the run is to go back.
      RunError: the run is to stop.
    """
    refusals = _Refusals(Path(workdir), source, progress, policy, seed, tuple(left_out), run or workdir)
    unseen: collections.deque[tuple[int, Mapping[str, np.ndarray], Metrics]] = collections.deque()

    def look(event: Event) -> None:
        event.metrics["skipped"].copy_to_host_async()
        host = {name: event.batch[name] for name in ("row", "index")}
        unseen.append((event.step, host, event.metrics))
        may_wait = 0 if saves(event) else IN_FLIGHT
        while len(unseen) > may_wait:
            refusals.look(*unseen.popleft())
        if event.last:
            refusals.sum_up()

    return look


class _Refusals:
    """The refused updates of one part of a run."""

    def __init__(
        self,
        workdir: Path,
        source: Any,
        progress: Progress,
        policy: Policy,
        seed: int,
        left_out: tuple[int, ...],
        run: Any,
    ):
        self._workdir, self._source, self._progress, self._run = workdir, source, progress, run
        self._policy, self._seed, self._left_out = policy, seed, left_out
        self._in_a_row = 0
        # What was done again after an interruption is not written twice.
        self._known = {_identity(row) for row in read(workdir)}

    def look(self, step: int, batch: Mapping[str, np.ndarray], metrics: Metrics) -> None:
        """Does what is to be done about a step, whose metrics are the same on all processes."""
        if not float(metrics["skipped"]):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        self._progress.refused += 1
        number = batch_of(step - 1, self._left_out)
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        why = self._why_stop(step, values)
        self._write(self._row(step, number, "stop" if why else self._policy.kind, batch, values))
        if why:
            raise RunError(f"{why}. {self._advice(step)}")
        if self._policy.kind == "rewind":
            raise Rewind(step, number)
        if self._progress.refused == 1:
            self._progress.say(f"{_said(step, values)}. The update is refused. {self._advice(step)}")

    def sum_up(self) -> None:
        """Says at the end how many updates were refused."""
        if self._progress.refused:
            self._progress.say(
                f"{self._progress.refused:,} updates were refused: see {self._workdir / FILE}"
            )

    def _why_stop(self, step: int, values: Mapping[str, float]) -> str | None:
        """Why the run cannot go on after this refusal, or None."""
        said, policy = _said(step, values), self._policy
        if policy.kind == "stop":
            return f"{said}, and config.nonfinite='stop' (skip and rewind would go on)"
        if policy.kind == "rewind" and len(self._left_out) >= policy.max_rewinds:
            return (
                f"{said}, after {len(self._left_out)} rewinds (config.max_rewinds={policy.max_rewinds}). More "
                "than single batches is wrong: try a smaller config.optim.base_lr or a config.optim.clip_norm"
            )
        if self._in_a_row >= MAX_IN_A_ROW:
            return (
                f"{said}, like the {MAX_IN_A_ROW - 1} steps before it. It is the weights, not the pictures: go "
                "back to an older checkpoint with a smaller config.optim.base_lr or a config.optim.clip_norm"
            )
        return None

    def _advice(self, step: int) -> str:
        command = f"python -m vitjax.replay {shlex.quote(str(self._run))} --step={step}"
        return f"The pictures are named in {self._workdir / FILE}; this runs the step again: {command}"

    def _row(
        self,
        step: int,
        number: int,
        decision: str,
        batch: Mapping[str, np.ndarray],
        values: Mapping[str, float],
    ) -> dict[str, Any]:
        """A line of the file; called on all processes, because it gathers the whole batch."""
        index = _whole_index(batch)
        name = getattr(self._source, "name", None)
        return {
            "step": step,
            "batch": number,
            "decision": decision,
            "loss": _or_null(values.get("loss")),
            "grad_norm": _or_null(values.get("grad_norm")),
            "metrics": {name: _or_null(value) for name, value in values.items()},
            "not_finite": {name: str(value) for name, value in values.items() if not math.isfinite(value)},
            "key": jax.random.key_data(step_key(self._seed, step - 1)).tolist(),
            "index": index,
            "name": [name(i) for i in index] if name else None,
        }

    def _write(self, row: dict[str, Any]) -> None:
        if jax.process_index() or _identity(row) in self._known:
            return
        self._known.add(_identity(row))
        jsonl.append(self._workdir / FILE, row)


def _whole_index(batch: Mapping[str, np.ndarray]) -> list[int]:
    """The records of the global batch, of which each process holds some rows."""
    rows, index = (multihost.gather(batch[name]).ravel() for name in ("row", "index"))
    whole = np.empty(rows.max() + 1, np.int64)
    whole[rows] = index
    return whole.tolist()


def _said(step: int, values: Mapping[str, float]) -> str:
    """'step 12: the loss or a gradient is not finite (loss=nan)'."""
    bad = ", ".join(f"{name}={value}" for name, value in values.items() if not math.isfinite(value))
    return f"step {step:,}: the loss or a gradient is not finite ({bad})"


def _or_null(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _identity(row: Mapping[str, Any]) -> tuple:
    return row.get("step"), row.get("batch"), row.get("decision")
