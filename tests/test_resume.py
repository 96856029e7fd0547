"""A run that was cut anywhere, and goes on anywhere, ends as one that was not.

The method is one of somebody's own, with every kind of state: parameters, optimiser slots, an EMA teacher,
batch statistics, a queue, an online probe, and dropout. An epoch has 13 steps, so that step 13 is its edge
and step 27 is not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import events
import jax
import numpy as np
import pytest
from own_methods import runs

from vitjax import checkpoint, sharding

TOTAL = 40
OFTEN = "--config.checkpoint.every_steps=5"
WHOLE = "--config.checkpoint.every_steps=1000"


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("VITJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, cache):
    """The run that nothing happens to."""
    workdir = tmp_path_factory.mktemp("unbroken")
    assert runs.run(workdir, WHOLE)
    return workdir


def weights(workdir):
    return checkpoint.read_variables(workdir, ("params", "extra", "opt"))


def rows(workdir, name="metrics.jsonl"):
    return [json.loads(line) for line in (Path(workdir) / name).read_text().splitlines()]


def losses(workdir):
    return [row["train/loss"] for row in rows(workdir)]


def assert_same_end(cut, whole):
    """To the bit: every array, every loss, and the records of every step."""
    a, b = weights(cut), weights(whole)
    assert a.keys() == b.keys()
    for part in ("params/backbone/", "extra/teacher/", "extra/batch_stats/", "extra/queue", "extra/probe/", "opt/"):
        assert any(path.startswith(part) for path in a), part
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)
    assert runs.seen(cut) == runs.seen(whole)
    assert losses(cut) == losses(whole)


def assert_each_step_once(workdir):
    assert [row["step"] for row in rows(workdir)] == list(range(1, TOTAL + 1))
    shown = events.scalars(Path(workdir) / "tensorboard")["train/loss"]
    assert [step for step, _ in shown] == list(range(1, TOTAL + 1))
    np.testing.assert_allclose([value for _, value in shown], losses(workdir), rtol=1e-6)


def test_epochs_are_permutations_of_all_records(unbroken):
    """What the comparisons below rest on: the records of a step are noted, and an epoch ends at step 13."""
    seen = runs.seen(unbroken)
    epochs = [sorted(i for step in steps for i in seen[step]["index"]) for steps in (range(1, 14), range(14, 27))]
    assert epochs == [list(range(13 * 16))] * 2
    assert seen[1]["index"] != seen[14]["index"]
    assert all(step["row"] == list(range(16)) for step in seen.values())
    assert_each_step_once(unbroken)


def test_a_stopped_run_ends_as_an_unbroken_one(unbroken, tmp_path):
    for last in (13, 27):
        assert not runs.run(tmp_path, WHOLE, stop_after=last)
        assert checkpoint.latest_step(tmp_path / "checkpoints") == last
    assert runs.run(tmp_path, WHOLE)
    assert_same_end(tmp_path, unbroken)
    assert_each_step_once(tmp_path)
    assert not (tmp_path / "metrics.discarded.jsonl").exists()


def test_a_killed_run_ends_as_an_unbroken_one_whoever_loads_its_pictures(unbroken, tmp_path):
    """Died at 13 and at 27, between the checkpoints of steps 10, 15, 25 and 30; two processes load, or none."""
    with pytest.raises(runs.Cut):
        runs.run(tmp_path, OFTEN, "--config.data.workers=2", cut_after=13, cut=runs.crash)
    assert checkpoint.latest_step(tmp_path / "checkpoints") == 10
    kill(tmp_path, 27)
    lost = checkpoint.latest_step(tmp_path / "checkpoints")
    assert lost in (20, 25)  # the save of step 25 may not have been done
    before = rows(tmp_path)
    assert runs.run(tmp_path, OFTEN, "--config.data.workers=2")
    assert_same_end(tmp_path, unbroken)
    assert_each_step_once(tmp_path)
    discarded = [row["step"] for row in rows(tmp_path, "metrics.discarded.jsonl")]
    assert discarded == [11, 12, 13] + [row["step"] for row in before if row["step"] > lost]


def kill(workdir, step):
    """Goes on in a process that dies after `step`."""
    code = [sys.executable, runs.__file__, str(workdir), str(step), OFTEN]
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    dead = subprocess.run(code, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, timeout=300)
    assert dead.returncode == 137, dead.stderr.decode()


def test_a_killed_run_that_accumulates_ends_as_an_unbroken_one(tmp_path):
    parts = ["--config.accum=2", OFTEN]  # each of the 8 devices has one picture of each part
    assert runs.run(tmp_path / "whole", *parts)
    for last in (13, 27):
        with pytest.raises(runs.Cut):
            runs.run(tmp_path / "cut", *parts, cut_after=last, cut=runs.crash)
    assert runs.run(tmp_path / "cut", *parts)
    assert_same_end(tmp_path / "cut", tmp_path / "whole")


def test_a_run_goes_on_on_any_devices(unbroken, tmp_path, monkeypatch):
    """The same records in the same rows, and losses that differ by rounding alone."""
    meshes = {9: (8, (8, 1, 1)), 13: (8, (2, 4, 1)), 27: (4, (1, 4, 1)), TOTAL: (1, (1, 1, 1))}
    make_mesh = sharding.make_mesh
    for last, (devices, sizes) in meshes.items():
        some = jax.devices()[:devices]
        monkeypatch.setattr(sharding, "make_mesh", lambda config, some=some: make_mesh(config, some))
        mesh = [f"--config.mesh.{axis}={size}" for axis, size in zip(sharding.AXES, sizes)]
        runs.run(tmp_path, WHOLE, *mesh, stop_after=last)
    assert runs.seen(tmp_path) == runs.seen(unbroken)
    assert_each_step_once(tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(unbroken), rtol=1e-5)
    one, eight = weights(tmp_path), weights(unbroken)
    for path in ("params/backbone/kernel", "extra/teacher/backbone/kernel", "extra/queue"):
        np.testing.assert_allclose(one[path], eight[path], atol=1e-4, err_msg=path)
