"""The bench of a run: it measures what it says, and leaves nothing switched off."""

from pathlib import Path

import bench_run
import jax.numpy as jnp
import pytest

from vitjax import checksums, health, objective
from vitjax.errors import UserError

CONFIG = Path(__file__).parents[2] / "configs" / "mae_vitb.py"


def test_a_run_is_measured(capsys):
    before = objective._accept, checksums.of_tree, objective._health, health.is_due
    small = ["--parameters=1e5", "--saves=2", "--steps=2", "--blocks=1", "--config.total_steps=20"]
    mesh = ["--config.mesh.data=-1", "--config.mesh.fsdp=1"]
    assert bench_run.main([f"--config={CONFIG}:tiny", *small, *mesh]) == 0
    printed = capsys.readouterr().out
    parts = ("99,900 parameters", "of a minute's training", "without them", "on the disk", "guard ", "supervisor ")
    parts += ("without the health panel", "without alarms", "every 100 steps")
    assert all(part in printed for part in parts), printed
    assert (objective._accept, checksums.of_tree, objective._health, health.is_due) == before


def test_the_side_without_checksums_makes_none_and_the_other_does(tmp_path, monkeypatch):
    made, of_tree = [], checksums.of_tree
    monkeypatch.setattr(checksums, "of_tree", lambda tree: made.append(1) or of_tree(tree))
    bench_run.of_saves(bench_run.made_up(1000), 2, tmp_path)
    assert len(made) == 3  # two and the one that is not counted


def test_the_side_without_the_guard_takes_any_update():
    state = objective.State(jnp.int32(3), {"w": jnp.ones(2)}, {}, {})
    new, metrics = bench_run._accept_all({"loss": jnp.nan}, state._replace(params={"w": jnp.zeros(2)}), state)
    assert int(new.step) == 4 and not new.params["w"].any() and not metrics["skipped"]


def test_no_parameters_are_refused():
    with pytest.raises(UserError, match="--parameters=0 must be at least 1"):
        bench_run.main(["--parameters=0"])
