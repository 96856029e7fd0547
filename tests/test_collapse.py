"""A whole run of SimSiam with its published heads: without the stopped gradient it collapses, and says so."""

import math
from pathlib import Path

import jax
import pytest

from vitjax import alarms, cli, jsonl, sharding
from vitjax import main as main_module
from vitjax.models import resnet

CONFIG = Path(__file__).parents[1] / "configs" / "cifar10_simsiam.py"
PICTURES = 32
FLAGS = [
    f"--config={CONFIG}:tiny",
    f"--config.batch_size={PICTURES}",
    "--config.total_steps=200",
    "--config.data.size_px=16",
    "--config.data.canvas_px=16",
    "--config.data.train_examples=512",
    "--config.model.stem=cifar_half",
    # Crops, mirror images and grey are enough to learn from, and colours and blur take long to compile.
    "--config.augment.views.view.jitter=0.0",
    "--config.augment.views.view.blur=0.0",
    # As fast as the recipe: its rate grows with the batch, which is small here.
    "--config.optim.base_lr=4.0",
    "--config.optim.warmup_steps=10",
    "--config.optim.schedule=constant",
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
    # All pictures but one are alike, which batch norm keeps apart, so that the loss is not -1.
    assert last["train/loss"] == pytest.approx(-(1 - 2 / PICTURES), abs=0.02)
    assert last["train/health/uniformity"] > math.log(1 - 3 / PICTURES)


def test_the_published_simsiam_stays_quiet_for_as_many_steps(tmp_path):
    told, last = run(tmp_path, stop_gradient=True)
    assert told == []
    assert -0.98 < last["train/loss"] < -0.2, "it learned to predict, and did not collapse"
    assert last["train/health/embedding_std"] > 0.5
