"""Alarms: each on a made-up series that is ill and on one that is healthy, and in a run of a network that collapses."""

import io
import math
from pathlib import Path

import numpy as np
import pytest

from vitjax import alarms, hooks
from vitjax.config import base_config
from vitjax.errors import UserError
from vitjax.inspect import inspect
from vitjax.loop import Event
from vitjax.progress import Progress

LIMITS = alarms.limits(base_config())
STEPS = range(10, 1010, 10)
NOISE = np.random.default_rng(0).normal(size=len(STEPS))


def told(tmp_path, **series):
    """What a watch says of these series, a value for each look."""
    watcher = alarms.Watch(tmp_path, LIMITS)
    texts = []
    for i, step in enumerate(STEPS):
        texts += watcher.look(step, {name.replace("__", "/"): float(x[i]) for name, x in series.items() if i < len(x)})
    return texts


def flat(value):
    return np.full(len(STEPS), value)


CHANCE = math.log(10)
SLOW = CHANCE * (1 - 0.00005 * np.arange(len(STEPS)))  # half a per cent in a thousand steps
# Of SimSiam without its stopped gradient, whose projector ends in batch norm: 32 pictures, every tenth of 200 steps.
CROWDED = (
    -3.01, -1.857, -0.687, -0.321, -0.462, -0.227, -0.136, -0.172, -0.103, -0.125, -0.086, -0.098, -0.065, -0.068,
    -0.065, -0.097, -0.09, -0.076, -0.102, -0.07, -0.066,
)  # fmt: skip
ILL = {
    "chance": dict(loss=CHANCE + 0.02 * NOISE, chance=flat(CHANCE)),
    "collapse": dict(health__embedding_std=0.9 * np.exp(-np.arange(len(STEPS)) / 3)),
    "exploding": dict(grad_norm=np.where(np.arange(len(STEPS)) < 30, 1 + 0.1 * NOISE, 300)),
    "dead": dict(grad_norm=flat(1e-9)),
    "refused": dict(refused=np.arange(len(STEPS))),
    "a player's gradient": dict(critic__grad_norm=flat(0)),
    "one picture apart": dict(health__uniformity=np.where(np.arange(len(STEPS)) < 30, -3, np.log(30 / 32))),
    "one picture nearly apart": dict(health__uniformity=CROWDED),
    "modes": dict(health__diversity=np.where(np.arange(len(STEPS)) < 30, 0.9, 0.05)),
    "pictures that were never different": dict(health__diversity=0.03 + 0.003 * NOISE),
    "won": dict(health__gradient_ratio=60 * np.exp(NOISE)),
    "codes": dict(health__assignment_entropy=0.9995 + 0.0002 * NOISE),
    "one prototype": dict(health__prototype_entropy=np.linspace(0.3, 0.01, len(STEPS))),
}
HEALTHY = {
    "falls from chance": dict(loss=CHANCE * np.exp(-np.arange(len(STEPS)) / 30) + 0.02 * NOISE, chance=flat(CHANCE)),
    "falls slowly from a chance without noise": dict(loss=SLOW, chance=flat(CHANCE)),
    "waits for the end of the warm-up": dict(
        loss=flat(CHANCE)[:40], chance=flat(CHANCE)[:40], learning_rate=np.arange(40)
    ),
    "is far above chance": dict(loss=1.1 * CHANCE + 0.02 * NOISE, chance=flat(CHANCE)),
    "has a loss without chance": dict(loss=flat(CHANCE)),
    "begins with features that are alike": dict(health__feature_std=0.03 + 0.003 * NOISE),
    "begins with embeddings that are alike": dict(health__uniformity=-0.004 + 0.0005 * NOISE),
    "crowds a little": dict(health__uniformity=np.linspace(-3, -0.3, len(STEPS))),
    "dips": dict(health__feature_std=np.where(np.arange(len(STEPS)) == 20, 0.0, 0.4)),
    "narrows to a third": dict(health__feature_std=np.linspace(0.3, 0.1, len(STEPS))),
    "has codes that are alike in the warm-up": dict(
        health__assignment_entropy=np.where(np.arange(len(STEPS)) < 30, 0.999, 0.9),
        learning_rate=np.minimum(np.arange(len(STEPS)), 30),
    ),
    "has codes that become sure slowly": dict(health__assignment_entropy=0.9999 - 0.00005 * np.arange(len(STEPS))),
    "learns from codes that are alike": dict(
        health__assignment_entropy=flat(0.999), loss=flat(0.5 * CHANCE), chance=flat(CHANCE)
    ),
    "has soft codes": dict(health__assignment_entropy=0.97 + 0.005 * NOISE),
    "has spread embeddings": dict(health__embedding_std=flat(0.8)),
    "begins with made pictures that are alike": dict(health__diversity=np.minimum(1, 0.02 * np.arange(len(STEPS)))),
    "is a game that goes to and fro": dict(health__gradient_ratio=6 * np.exp(NOISE)),
    "spikes once": dict(grad_norm=np.where(np.arange(len(STEPS)) == 30, 1e4, 1.0)),
    "has gradients that grow a little": dict(grad_norm=np.exp(np.arange(len(STEPS)) / 20)),
    "has a gradient of 0 once": dict(grad_norm=np.where(np.arange(len(STEPS)) == 30, 0.0, 1.0)),
    "refuses an update now and then": dict(refused=np.arange(len(STEPS)) // 5),
    "has a gradient that is not finite": dict(grad_norm=np.where(np.arange(len(STEPS)) == 30, np.inf, 1.0)),
}


@pytest.mark.parametrize("name", ILL)
def test_an_ill_run_is_told_once_with_a_number_and_a_hint(tmp_path, name):
    (text,) = told(tmp_path, **ILL[name])
    (row,) = alarms.read(tmp_path)
    assert row["over_at"] is None and row["alarm"] == name or name not in alarms.RULES
    assert text.startswith(f"ALARM '{row['alarm']}' at step {row['step']}: {row['metric']} ")
    assert f"{alarms.RULES[row['alarm']].hint}." in text


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_is_quiet(tmp_path, name):
    assert told(tmp_path, **HEALTHY[name]) == []


def test_an_alarm_comes_when_it_can_be_known(tmp_path):
    """The loss must have sat for 200 steps, and a collapse shows in a median of three looks."""
    told(tmp_path, **ILL["chance"], **ILL["collapse"])
    steps = {row["alarm"]: row["step"] for row in alarms.read(tmp_path)}
    assert steps["chance"] in range(200, 300)
    below = next(step for step, x in zip(STEPS, ILL["collapse"]["health__embedding_std"]) if x < 0.15)
    assert steps["collapse"] == below + 10


def test_a_limit_of_0_turns_an_alarm_off(tmp_path):
    watcher = alarms.Watch(tmp_path, {**LIMITS, "dead": 0})
    assert [text for step in STEPS for text in watcher.look(step, {"grad_norm": 0.0})] == []


def test_an_alarm_that_is_over_is_told_and_may_come_again(tmp_path):
    std = np.concatenate([flat(0.9)[:10], flat(0.01)[:10], flat(0.9)[:20], flat(0.01)[:10]])
    texts = told(tmp_path, health__feature_std=std)
    assert [text.split()[0] for text in texts] == ["ALARM", "Alarm", "ALARM"]
    first, second = alarms.read(tmp_path)
    # Three looks make a median: it falls at the second one, and rises at the second one.
    assert (first["step"], first["over_at"]) == (120, 220 + 10 * (alarms.QUIET - 1))
    assert (second["step"], second["over_at"]) == (420, None)


def test_an_explosion_is_not_over_when_the_median_has_followed(tmp_path):
    grad_norm = np.where(np.arange(len(STEPS)) < 20, 1.0, 1e4)
    assert len(told(tmp_path, grad_norm=grad_norm)) == 1


def test_a_run_that_goes_on_keeps_its_alarms_and_forgets_those_of_discarded_steps(tmp_path):
    watcher = alarms.Watch(tmp_path, LIMITS)
    for step in STEPS:
        watcher.look(step, {"health/feature_std": 0.9 if step < 100 else 0.02, "grad_norm": 0.0 if step > 500 else 1})
    with open(tmp_path / alarms.FILE, "a") as file:
        file.write('{"step": 9')
    assert [row["alarm"] for row in alarms.read(tmp_path)] == ["collapse", "dead"]
    again = alarms.Watch(tmp_path, LIMITS, first_step=300)
    assert [row["alarm"] for row in alarms.read(tmp_path)] == ["collapse"]
    # Still on, though nothing in what is left of the run shows that it ever was larger.
    assert [text for step in STEPS for text in again.look(300 + step, {"health/feature_std": 0.02})] == []
    texts = [text for step in STEPS for text in again.look(1300 + step, {"health/feature_std": 0.9})]
    assert len(texts) == 1 and "is over" in texts[0]


def waiting(tmp_path, share, step_s=0.5, steps=300):
    """What is said of a run whose steps wait for this share of their time."""
    now = [0.0]
    watcher = alarms.Watch(tmp_path, LIMITS, clock=lambda: now[0])
    texts = []
    for step in range(1, steps + 1):
        now[0] += 100.0 if step == 1 else step_s  # the first one compiles
        watcher.waited(100.0 if step == 1 else share * step_s)
        if step % alarms.EVERY_STEPS == 0:
            texts += watcher.look(step, {})
    return texts


def test_a_run_that_waits_for_its_pictures_is_told(tmp_path):
    (text,) = waiting(tmp_path, 0.4)
    assert "data_wait is 40% of the time, above 30%" in text


def test_a_run_that_waits_a_little_or_briefly_is_quiet(tmp_path):
    assert waiting(tmp_path, 0.2) == []
    assert waiting(tmp_path, 0.9, steps=60) == []


def test_a_limit_below_0_is_refused():
    config = base_config()
    config.alarms.dead = -1.0
    with pytest.raises(UserError, match=r"config\.alarms\.dead=-1\.0: must be at least 0"):
        alarms.limits(config)


def test_every_rule_has_its_limit_and_its_line_in_the_docs():
    assert set(LIMITS) == set(alarms.RULES)
    docs = (Path(__file__).parents[1] / "docs" / "health.md").read_text()
    assert [name for name in alarms.RULES if f"\n| `{name}` | " not in docs] == []


class Scalar(float):
    def copy_to_host_async(self):
        pass


def test_the_hook_looks_at_finished_steps_and_shows_what_is_on(tmp_path):
    stream = io.StringIO()
    progress = Progress(total_steps=45, batch_size=8, stream=stream)
    hook = hooks.watch(alarms.Watch(tmp_path, LIMITS), progress)
    for step in range(1, 46):
        seen = {step: stream.getvalue()} if step in (21, 22) else {}
        hook(Event(step, {}, {"grad_norm": Scalar(0.0), "other": None}, {}, 0.0, last=step == 45))
        assert "ALARM" not in seen.get(step, "")
    # Three looks, at 1, 10 and 20.
    assert "ALARM 'dead' at step 20" in stream.getvalue()
    assert "ALARM dead" in progress.line()


def test_inspect_lists_alarms(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    told(tmp_path, **ILL["dead"])
    assert "alarm     dead from step 30 on: grad_norm is 1e-09, below 1e-07" in inspect(tmp_path)[0]
