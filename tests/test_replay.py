"""A step of a run again: the same numbers, and the pictures that made it not finite."""

import contextlib
import io
import re

import numpy as np
import pytest
from test_nonfinite import BATCH, SEED, STEPS, bad_batches, bad_picture, pictures, poison, run  # noqa: F401

from vitjax import checkpoint, nonfinite, replay
from vitjax.errors import UserError
from vitjax.writers import read_metrics


@pytest.fixture(scope="module")
def skipped(pictures, tmp_path_factory):  # noqa: F811
    """A run that met the bad picture and went on."""
    workdir = tmp_path_factory.mktemp("skipped")
    patch = pytest.MonkeyPatch()
    poison.__wrapped__(patch)(bad_picture)
    run(workdir, pictures)
    yield workdir
    patch.undo()


def replayed(*argv, mesh=("-1", "1")):
    """What the command prints; on the run's own mesh, which is compiled already, if no other is asked for."""
    argv = [*argv, f"--config.mesh.data={mesh[0]}", f"--config.mesh.fsdp={mesh[1]}"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        replay.main([str(arg) for arg in argv])
    return out.getvalue()


def test_a_refused_step_names_numbers_gradients_and_the_picture(skipped, pictures, tmp_path):  # noqa: F811
    step = bad_batches(pictures)[1] + 1
    printed = replayed(skipped, f"--step={step}", f"--save={tmp_path / 'batch.npz'}")
    assert f"Step {step} of {skipped}, batch {step - 1}, after the checkpoint of step 4" in printed
    assert re.search(r"loss +nan", printed) and re.search(r"skipped +1\n", printed)
    assert re.search(r"params/backbone +norm [\d.]+\n", printed)
    bad, count = map(int, re.search(r"(\d+) of (\d+) are not finite", printed).groups())
    assert bad == count > 10 and "numbers not finite" in printed
    (row,) = [r for r in nonfinite.read(skipped) if r["step"] == step]
    place = next(i for i, name in enumerate(row["name"]) if "bad" in name)
    assert f"1 of {BATCH} that make the step not finite" in printed
    assert re.search(rf"! row +{place}  record +{row['index'][place]}  .*bad/000\.png", printed)
    assert printed.count("! row") == 1 and all(name in printed for name in row["name"])
    with np.load(tmp_path / "batch.npz") as saved:
        assert saved["index"].tolist() == row["index"] and saved["image"].shape[0] == BATCH


@pytest.mark.parametrize("mesh", [("-1", "1"), ("1", "-1")])
def test_a_finite_step_has_the_numbers_that_the_run_logged(skipped, mesh):
    logged = next(r for r in read_metrics(skipped) if r["step"] == 6)
    printed = replayed(f"--workdir={skipped}", "--step=6", mesh=mesh)
    for name in ("loss", "grad_norm"):
        assert float(re.search(rf"\b{name} +(\S+)", printed)[1]) == pytest.approx(
            logged[f"train/{name}"], 2e-5
        )
    assert "are finite" in printed and "!" not in printed


def test_a_batch_that_was_left_out_since_is_met_again(pictures, poison, tmp_path):  # noqa: F811
    poison(bad_picture)
    run(tmp_path, pictures, "--config.nonfinite=rewind")
    first, second = bad_batches(pictures)[:2]
    printed = replayed(tmp_path, f"--step={second}")
    assert f"Step {second} of {tmp_path}, batch {second}," in printed and "! row" in printed
    kept = replayed(tmp_path, f"--step={second}", f"--batch={second + 1}")
    assert f"batch {second + 1}," in kept and "! row" not in kept
    with pytest.raises(UserError, match=rf"--batch=1: step {second} met {second}, {second + 1}"):
        replayed(tmp_path, f"--step={second}", "--batch=1")


def test_what_cannot_be_replayed_is_refused_with_the_remedy(skipped, monkeypatch):
    with pytest.raises(UserError, match=r"--step=0: steps are counted from 1"):
        replayed(skipped, "--step=0")
    with pytest.raises(UserError, match=rf"--step={STEPS + 1}: the run has {STEPS} steps"):
        replayed(skipped, f"--step={STEPS + 1}")
    with pytest.raises(UserError, match=r"config\.seed: a replay does what the run did"):
        replayed(skipped, "--step=3", f"--config.seed={SEED + 1}")
    with pytest.raises(UserError, match="name one run"):
        replayed("--step=3")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "complete_steps", lambda folder: [8])
        with pytest.raises(UserError, match=r"lies before step 6 \(it has 8\); --from_start does all the 5"):
            replayed(skipped, "--step=6")


@pytest.mark.parametrize("size", [1, 2, 7, 64])
@pytest.mark.parametrize("number", [1, 2])
def test_the_rows_that_do_it_alone_are_found(size, number):
    rng = np.random.default_rng(size)
    bad = set(rng.choice(size, min(number, size), replace=False).tolist())
    tried = []

    def is_refused(rows):
        assert len(rows) == size
        tried.append(rows)
        return bool(bad & set(rows.tolist()))

    culprits, said = replay.find_culprits(is_refused, size)
    if size > 2:
        assert set(culprits) == bad and f"{len(bad)} of {size}" in said
        assert len(tried) <= 4 + number * (2 * np.log2(size) + 2)


def test_rows_that_do_it_only_together_or_all_of_them_are_not_blamed_singly():
    culprits, said = replay.find_culprits(lambda rows: True, 16)
    assert culprits == [] and "any quarter" in said
    culprits, said = replay.find_culprits(lambda rows: {1, 14} <= set(rows.tolist()), 16)
    assert culprits == [] and "only together" in said
