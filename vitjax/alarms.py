"""Alarms: a run that looks ill says so, with a number and a hint. It goes on, and nothing that it trains changes.

The scalars of every EVERY_STEPS-th step are looked at on the host, once the device is done with them. Each rule of
RULES judges the last looks; `config.alarms` holds the limits, and a limit of 0 turns a rule off. An alarm is told when
it starts and when it is over, and each time is a line of alarms.jsonl, which `python -m vitjax.inspect` shows.

Healthy runs must stay quiet, and the start of a run looks like illness: losses are at chance, and a random network's
features all point in one direction. So a loss at chance counts only if it does not fall, after the warm-up, and a small
spread only if it was larger before. The effective rank raises no alarm: at the start it is a few, for any network.
"""

import collections
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from vitjax import jsonl
from vitjax.errors import UserError

FILE = "alarms.jsonl"
EVERY_STEPS = 10
LOOKS = 50  # that are remembered
PATIENCE = 20  # looks at chance, at codes that are alike, or at a game that is lost
FEW = 3  # looks that one number is the median of
SETTLED = 10  # looks before there is a running median to compare with
QUIET = 5  # looks without it, after which an alarm is over
ALIKE = 0.005  # a spread that no network with any use has, wherever it began
WINDOW_S, WINDOW_STEPS = 60.0, 20  # that waiting for data is a share of
WAIT, REFUSED, CROWDED = "data_wait", "refused", "health/uniformity"


class Finding(NamedTuple):
    """Why an alarm is on: `value` is that of `metric`, and `bound` what it is held against."""

    metric: str
    value: float
    bound: float
    said: str


class History(NamedTuple):
    """What a rule sees: the last looks, oldest first, and the largest magnitude that each metric ever had."""

    looks: Sequence[Mapping[str, float]]
    peaks: Mapping[str, float]

    def last(self, name: str, count: int) -> list[float]:
        """The values of a metric in the last `count` looks that have it."""
        return [look[name] for look in self.looks if name in look][-count:]


# (history, name of the metric, limit, the finding that is on or None) -> finding, or None if all is well
Judge = Callable[[History, str, float, Finding | None], Finding | None]


class Rule(NamedTuple):
    """`judge` is asked about each metric whose name ends in one of `suffixes`."""

    suffixes: tuple[str, ...]
    judge: Judge
    hint: str


def _at_chance(history: History, name: str, limit: float, on: Finding | None) -> Finding | None:
    """The loss sits at chance: within a share of it for PATIENCE looks, not falling, and not during the warm-up."""
    chance = history.looks[-1].get(f"{name.removesuffix('loss')}chance")
    losses = history.last(name, PATIENCE)
    if chance is None or len(losses) < PATIENCE or _warming(history):
        return None
    value = statistics.median(losses)
    if abs(value - chance) >= limit * abs(chance) or (on is None and _falls(losses)):
        return None
    steps = PATIENCE * EVERY_STEPS
    return Finding(name, value, chance, f"has been {value:.4g} for {steps} steps, and chance is {chance:.4g}")


def _warming(history: History) -> bool:
    """Whether the learning rate rises: before it is up, little can be learned."""
    rates = history.last("learning_rate", PATIENCE)
    return bool(rates) and rates[-1] > rates[0]


def _falls(values: Sequence[float]) -> bool:
    """Whether the second half is lower than the first by more than noise would make it, in 39 cases of 40."""
    half = len(values) // 2
    first, second = values[:half], values[-half:]
    noise = math.sqrt((statistics.variance(first) + statistics.variance(second)) / half)
    return statistics.mean(first) - statistics.mean(second) > 2 * noise


def _collapsed(history: History, name: str, limit: float, on: Finding | None) -> Finding | None:
    """All pictures look alike, and did not before: the spread is small and a quarter of what it was."""
    if _ends(name, (CROWDED,)):
        return _crowded(history, name, limit, on)
    values = history.last(name, FEW)
    value, peak = statistics.median(values), history.peaks[name]
    fell = value < 0.25 * peak or value < ALIKE or on is not None
    if len(values) < FEW or value >= limit or not fell:
        return None
    return Finding(name, value, limit, f"is {value:.3g}, below {limit:g}; it was {peak:.3g}")


def _crowded(history: History, name: str, limit: float, on: Finding | None) -> Finding | None:
    """All pictures but a few look alike, and did not before.

    Batch norm at the end of a projector (SimSiam, MoCo v3) cannot make all embeddings of a batch equal: what collapses
    leaves one of B pictures opposite to all others, and a spread of 2 / sqrt(B), 0.35 at 32 pictures. The pairs of the
    others show it. Where there is no such picture, a uniformity of -4 s^2 goes with a small spread s.
    """
    values = history.last(name, FEW)
    value, lowest, bound = statistics.median(values), -history.peaks[name], -4 * limit**2
    if len(values) < FEW or value <= bound or (value <= lowest / 16 and on is None):
        return None
    return Finding(name, value, bound, f"is {value:.3g}, above {bound:.3g}; it was {lowest:.3g}")


def _alike_codes(history: History, name: str, limit: float, on: Finding | None) -> Finding | None:
    """Each picture is given all prototypes alike, for PATIENCE looks, no fewer with time, and not in the warm-up.

    Soft codes do no harm where the loss is well below chance, as DINO's are at the start.
    """
    values, last = history.last(name, PATIENCE), history.looks[-1]
    if last.get("loss", math.inf) < 0.95 * last.get("chance", 0.0):
        return None
    value = statistics.median(values)
    if len(values) < PATIENCE or value <= limit or _warming(history) or (on is None and _falls(values)):
        return None
    steps = PATIENCE * EVERY_STEPS
    return Finding(name, value, limit, f"has been {value:.4g} of its largest for {steps} steps, above {limit:g}")


def _same_pictures(history: History, name: str, limit: float, on: Finding | None) -> Finding | None:
    """A generator's pictures are alike: they were not before, or have never been anything else."""
    values, peak = history.last(name, LOOKS), history.peaks[name]
    value = statistics.median(values[-FEW:])
    fell = peak > 2 * limit or len(values) == LOOKS
    if len(values) < FEW or value >= limit or not fell:
        return None
    return Finding(name, value, limit, f"is {value:.3g}, below {limit:g}; it was {peak:.3g}")


def _won(history: History, name: str, limit: float, on: Finding | None) -> Finding | None:
    """One player has won: for PATIENCE looks the discriminator's gradient is small beside the generator's.

    That it tells nearly all pictures apart is no sign: it does in games from which the generator learns well.
    """
    values = history.last(name, PATIENCE)
    value = statistics.median(values)
    if len(values) < PATIENCE or value <= limit:
        return None
    return Finding(name, value, limit, f"has been {value:.3g} for {PATIENCE * EVERY_STEPS} steps, above {limit:g}")


def _starved(history: History, name: str, limit: float, on: Finding | None) -> Finding | None:
    """The device waits for pictures."""
    value = history.looks[-1][name]
    if value <= limit:
        return None
    return Finding(name, value, limit, f"is {value:.0%} of the time, above {limit:.0%}")


def _exploding(history: History, name: str, limit: float, on: Finding | None) -> Finding | None:
    """Two looks in a row lie far above the running median; one alone is a bad batch."""
    values = history.last(name, LOOKS)
    if len(values) < SETTLED + 2:
        return None
    # While it is on, the median of what exploded is nothing to compare with.
    bound = on.bound if on else limit * statistics.median(values[:-2])
    value = min(values[-2:])
    if value <= bound:
        return None
    return Finding(name, value, bound, f"is {value:.3g}, above {bound:.3g}: {limit:g} times what it was")


def _dead(history: History, name: str, limit: float, on: Finding | None) -> Finding | None:
    """No gradient arrives."""
    values = history.last(name, FEW)
    value = max(values)
    if len(values) < FEW or value >= limit:
        return None
    return Finding(name, value, limit, f"is {value:.3g}, below {limit:.3g}")


def _refused(history: History, name: str, limit: float, on: Finding | None) -> Finding | None:
    """Updates are refused again and again: `refused` counts them."""
    counts = history.last(name, 100 // EVERY_STEPS + 1)
    value = counts[-1] - counts[0]
    if value < limit:
        return None
    return Finding(name, value, limit, f"counts {value:.0f} of the last 100 updates that were not finite")


RULES: Mapping[str, Rule] = {
    "chance": Rule(
        ("loss",),
        _at_chance,
        "Nothing is learned: try config.optim.base_lr ten times smaller and larger, and look at what the network "
        "sees, labels too, with python -m vitjax.show",
    ),
    "collapse": Rule(
        ("health/feature_std", "health/embedding_std", CROWDED, "health/prototype_entropy"),
        _collapsed,
        "All pictures look alike to the network: see that targets receive no gradient and that predictor, centring or "
        "negatives are in place; else try a smaller config.optim.base_lr or a larger config.batch_size",
    ),
    "codes": Rule(
        ("health/assignment_entropy",),
        _alike_codes,
        "All prototypes are alike to each picture, and there is nothing to predict: try a smaller "
        "config.objective.epsilon (SwAV) or config.objective.teacher_temperature (DINO), or a larger "
        "config.optim.held_epochs",
    ),
    "modes": Rule(
        ("health/diversity",),
        _same_pictures,
        "The generator makes a few pictures over and over: try a smaller config.objective.discriminator_rate or "
        "config.optim.base_lr, a larger config.batch_size, or config.objective.diff_augment; an older checkpoint may "
        "be the best there is",
    ),
    "won": Rule(
        ("health/gradient_ratio",),
        _won,
        "The discriminator has won: it has little left to learn, and the generator learns little from it. Try a "
        "smaller config.objective.discriminator_rate, one discriminator step a round, config.objective.r1, or "
        "config.objective.diff_augment where there are few pictures",
    ),
    "starved": Rule(
        (WAIT,),
        _starved,
        "The device waits for pictures: try a larger config.data.workers, config.data.crop='host' where the method "
        "allows it, or smaller copies from tools/prepare_data.py; python -m vitjax.check measures the loader",
    ),
    "exploding": Rule(
        ("grad_norm",),
        _exploding,
        "The run is about to diverge: try config.optim.clip_norm=1, a smaller config.optim.base_lr or a longer warm-up",
    ),
    "dead": Rule(
        ("grad_norm",),
        _dead,
        "No gradient arrives: see that config.init and the frozen parts leave something to learn, that the pictures "
        "have labels if the method wants them, and that no collapse came before",
    ),
    "refused": Rule(
        (REFUSED,),
        _refused,
        "See nonfinite.jsonl and python -m vitjax.replay: try a smaller config.optim.base_lr, "
        "config.optim.clip_norm=1 or config.dtype='float32'",
    ),
}
SUFFIXES = tuple(suffix for rule in RULES.values() for suffix in (*rule.suffixes, "chance", "learning_rate"))


def limits(config: Any) -> dict[str, float]:
    """What `config.alarms` says.

    Raises:
      UserError: a limit is below 0.
    """
    found = dict(config.alarms)
    wrong = [f"config.alarms.{name}={limit}" for name, limit in found.items() if limit < 0]
    if wrong:
        raise UserError(f"{', '.join(wrong)}: must be at least 0, which turns the alarm off")
    return found


class Watch:
    """The alarms of one run; also of one that goes on, whose alarms stay on until they are over.

    It writes on the first process alone; all processes may look.
    """

    def __init__(
        self,
        workdir: Path,
        limits: Mapping[str, float],
        *,
        first_step: int = 0,
        writes: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """
        Args:
          limits: of each rule, from `limits`.
          first_step: the step that the run goes on from; what was written of later ones is forgotten.
        """
        self._file, self._limits, self._writes, self._clock = workdir / FILE, limits, writes, clock
        if writes:
            jsonl.keep(self._file, lambda row: row["step"] <= first_step)
        self.on: dict[tuple[str, str], Finding] = {
            (row["alarm"], row["metric"]): Finding(row["metric"], row["value"], row["bound"], row["said"])
            for row in read(workdir)
            if row["over_at"] is None and row["step"] <= first_step
        }
        self._quiet: collections.Counter[tuple[str, str]] = collections.Counter()
        self._looks: collections.deque[Mapping[str, float]] = collections.deque(maxlen=LOOKS)
        self._peaks: dict[str, float] = {}
        self._waits: tuple[float, float, int] | None = None
        self._share: float | None = None

    def waited(self, waited_s: float) -> None:
        """Notes, after a step, how long the loop stood waiting for the next batch."""
        now = self._clock()
        if self._waits is None:
            # From the end of the first step: compilation and the loader's start are over then.
            self._waits = now, 0.0, 0
            return
        began, total, steps = self._waits
        total, steps = total + waited_s, steps + 1
        if now - began >= WINDOW_S and steps >= WINDOW_STEPS:
            self._share = total / (now - began)
            began, total, steps = now, 0.0, 0
        self._waits = began, total, steps

    def look(self, step: int, values: Mapping[str, float]) -> list[str]:
        """What there is to say after a look at the scalars of a step."""
        seen = {name: value for name, value in values.items() if math.isfinite(value)}
        if self._share is not None:
            seen[WAIT] = self._share
        self._looks.append(seen)
        for name, value in seen.items():
            self._peaks[name] = max(abs(value), self._peaks.get(name, 0.0))
        said = []
        for alarm, rule in RULES.items():
            if self._limits[alarm]:
                for name in seen:
                    if _ends(name, rule.suffixes):
                        said += self._judge(step, alarm, rule, name)
        return said

    def _judge(self, step: int, alarm: str, rule: Rule, name: str) -> list[str]:
        """What one rule has to say of one metric."""
        key = alarm, name
        on = self.on.get(key)
        found = rule.judge(History(tuple(self._looks), self._peaks), name, self._limits[alarm], on)
        if found:
            self._quiet[key] = 0
            self.on[key] = found
            return [] if on else [self._tell(step, alarm, found, rule.hint)]
        self._quiet[key] += 1
        if on is None or self._quiet[key] < QUIET:
            return []
        del self.on[key]
        return [self._tell(step, alarm, on, None)]

    def _tell(self, step: int, alarm: str, found: Finding, hint: str | None) -> str:
        """The text of an alarm that starts, or is over where there is no hint; written down first."""
        row = {"step": step, "alarm": alarm, **found._asdict(), "hint": hint, "over": hint is None}
        if self._writes:
            jsonl.append(self._file, row)
        if hint is None:
            return f"Alarm '{alarm}' ({found.metric}) is over at step {step:,}."
        return f"ALARM '{alarm}' at step {step:,}: {found.metric} {found.said}. {hint}."


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Each alarm of a run, oldest first; 'over_at' is the step at which it was over, or None while it is on."""
    alarms: list[dict[str, Any]] = []
    for row in jsonl.read(epath.Path(workdir) / FILE):
        if not row["over"]:
            alarms.append({**row, "over_at": None})
            continue
        same = [x for x in alarms if (x["alarm"], x["metric"]) == (row["alarm"], row["metric"])]
        if same:
            same[-1]["over_at"] = row["step"]
    return alarms


def _ends(name: str, suffixes: Sequence[str]) -> bool:
    """Whether `name` is one of `suffixes`, of a player or of the whole: 'loss' and 'critic/loss', but not 'my_loss'."""
    return any(name == suffix or name.endswith(f"/{suffix}") for suffix in suffixes)


def watched(name: str) -> bool:
    """Whether any rule looks at a metric of this name."""
    return _ends(name, SUFFIXES)
