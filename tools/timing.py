"""Fair times of things that take turns."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def interleave(sides: Mapping[str, Callable[[int], None]], steps: int, blocks: int) -> dict[str, list[float]]:
    """Seconds a step of each side, one number a block; the sides take turns.

    Args:
      sides: functions that run so many steps and return when they are done. Each block begins with one step
        that is not counted: the caches are the other side's then, and its threads may not sleep yet.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(blocks):
        for name, run in sides.items():
            run(1)
            before = time.perf_counter()
            run(steps)
            seconds[name].append((time.perf_counter() - before) / steps)
    return seconds


def spread(seconds: Sequence[float]) -> str:
    """'98.1 ms a step (97.0 to 103.2)'."""
    middle, low, high = (1000 * f(seconds) for f in (statistics.median, min, max))
    return f"{middle:.4g} ms a step ({low:.4g} to {high:.4g})"


def ratio(above: Sequence[float], below: Sequence[float]) -> str:
    """'1.004 (0.998 to 1.011)': of the medians, and the range of those of neighbouring blocks."""
    each = [a / b for a, b in zip(above, below)]
    return f"{statistics.median(above) / statistics.median(below):.3f} ({min(each):.3f} to {max(each):.3f})"


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
