"""A whole run of SimSiam: without the stopped gradient it collapses, and says so."""

from pathlib import Path

import jax
import pytest

from vitjax import alarms, cli, jsonl, sharding
from vitjax import main as main_module
from vitjax.models import resnet

CONFIG = Path(__file__).parents[1] / "configs" / "cifar10_simsiam.py"
FLAGS = [
    f"--config={CONFIG}:tiny",
    "--config.batch_size=32",
    "--config.total_steps=200",
    "--config.data.size_px=16",
    "--config.data.canvas_px=16",
    "--config.data.train_examples=512",
    "--config.model.stem=cifar_half",
    # The paper's table 3 has this variant, which learns too. A last norm would slow the collapse down.
    "--config.objective.projector.out_norm=none",
    "--config.optim.warmup_steps=10",
    "--config.probe.field=",
    "--config.evals.knn.every_steps=-1",
    "--config.evals.linear.every_steps=-1",
    "--config.log.every_steps=10",
]


def run(workdir, stop_gradient):
    """(alarms, the last logged line) of 200 steps."""
    given = [*FLAGS, f"--config.objective.stop_gradient={stop_gradient}"]
    assert main_module.train(cli.load_config(given), workdir, given=cli.keys(given))
    return alarms.read(workdir), jsonl.read(workdir / "metrics.jsonl")[-1]


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """One device, since eight on a few cores wait for each other in every batch norm, and two blocks."""
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda sizes: make_mesh(sizes, jax.devices()[:1]))
    monkeypatch.setitem(resnet.DEPTHS, 18, (1, 1))
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path / "cache"))


def test_a_simsiam_without_its_stopped_gradient_raises_the_alarm_within_200_steps(tmp_path):
    told, last = run(tmp_path, stop_gradient=False)
    assert {row["alarm"] for row in told} == {"collapse"}
    assert all(row["over_at"] is None for row in told)
    assert last["train/loss"] < -0.99 and last["train/health/embedding_std"] < 0.1


def test_a_simsiam_with_it_stays_quiet_for_as_many_steps(tmp_path):
    told, last = run(tmp_path, stop_gradient=True)
    assert told == []
    assert last["train/loss"] < -0.2 and last["train/health/embedding_std"] > 0.3, "it learned, and did not collapse"
