"""Which checkpoints stay: the newest, one in so many steps, and the best by a metric."""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from vitjax.errors import UserError

MODES = {"max": 1, "min": -1}


def check(mode: str) -> None:
    """
    Raises:
      UserError: there is no such mode.
    """
    if mode not in MODES:
        raise UserError(f"config.checkpoint.keep_best_mode={mode!r} must be 'max' or 'min'")


def kept(
    steps: Collection[int],
    keep: int,
    every_steps: int = 0,
    scores: Mapping[int, float] | None = None,
    mode: str = "max",
) -> set[int]:
    """The steps, of those that lie on the disk, that stay there.

    Args:
      keep: how many of the newest stay; 0 keeps all.
      every_steps: multiples of it stay for good; 0 for none.
      scores: step -> its metric, where there is one. The best of `steps` stays, of equal ones the newest; a
        step that was never scored is not the best.
      mode: 'max' or 'min', which metric is the best.
    """
    if not keep:
        return set(steps)
    stay = set(sorted(steps)[-keep:])
    if every_steps:
        stay |= {step for step in steps if step % every_steps == 0}
    best = best_step(steps, scores or {}, mode)
    return stay if best is None else stay | {best}


def best_step(steps: Collection[int], scores: Mapping[int, float], mode: str = "max") -> int | None:
    """The best of `steps`, or None where none was scored."""
    scored = [step for step in steps if step in scores]
    return max(scored, key=lambda step: (MODES[mode] * scores[step], step), default=None)


def scores(workdir: Any, metric: str) -> dict[int, float]:
    """Step -> value of `metric` in the metrics.jsonl of a run; what is not finite is left out."""
    file = epath.Path(workdir) / "metrics.jsonl"
    if not metric or not file.exists():
        return {}
    found = {}
    with file.open("rb") as lines:
        for line in lines:
            # Evaluations are rare among the lines, and parsing is what takes the time.
            row = _parsed(line) if json.dumps(metric).encode() in line else {}
            value = row.get(metric)
            if isinstance(row.get("step"), int) and isinstance(value, int | float) and math.isfinite(value):
                found[row["step"]] = float(value)
    return found


def _parsed(line: bytes) -> dict[str, Any]:
    """A line of JSON; a killed process may have left half of one."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
