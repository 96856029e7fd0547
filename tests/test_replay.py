"""A step of a run again: the same numbers, and the pictures that made it not finite."""

import contextlib
import io
import json
import re

import numpy as np
import pytest
from test_nonfinite import BATCH, SEED, STEPS, bad_batches, bad_picture, pictures, poison, run  # noqa: F401

from vitjax import checkpoint, nonfinite, replay
from vitjax.errors import UserError
from vitjax.workdir import Workdir
from vitjax.writers import read_metrics


@pytest.fixture(scope="module")
def rewound(pictures, tmp_path_factory):  # noqa: F811
    """A run that met the bad picture and left out its batches."""
    workdir = tmp_path_factory.mktemp("rewound")
    patch = pytest.MonkeyPatch()
    poison.__wrapped__(patch)(bad_picture)
    run(workdir, pictures, "--config.nonfinite=rewind")
    yield workdir
    patch.undo()


def replayed(*argv, mesh=("-1", "1")):
    """What the command prints; on the run's own mesh, which is compiled already, if no other is asked for."""
    argv = [*argv, f"--config.mesh.data={mesh[0]}", f"--config.mesh.fsdp={mesh[1]}"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        replay.main([str(arg) for arg in argv])
    return out.getvalue()


def test_a_refused_step_names_numbers_gradients_and_the_picture(rewound, pictures, tmp_path):  # noqa: F811
    step = number = bad_batches(pictures)[1]  # one batch is left out before it
    printed = replayed(rewound, f"--step={step}", f"--save={tmp_path / 'batch.npz'}")
    assert f"Step {step} of {rewound}, batch {number}, after the checkpoint of step 4" in printed
    assert re.search(r"loss +nan", printed) and re.search(r"skipped +1\n", printed)
    assert re.search(r"params/backbone +norm [\d.]+\n", printed)
    bad, count = map(int, re.search(r"(\d+) of (\d+) are not finite", printed).groups())
    assert bad == count > 10 and "numbers not finite" in printed
    (row,) = [r for r in nonfinite.read(rewound) if r["step"] == step]
    place = next(i for i, name in enumerate(row["name"]) if "bad" in name)
    assert f"1 of {BATCH} that make the step not finite" in printed
    assert re.search(rf"! row +{place}  record +{row['index'][place]}  .*bad/000\.png", printed)
    assert printed.count("! row") == 1 and all(name in printed for name in row["name"])
    with np.load(tmp_path / "batch.npz") as saved:
        assert saved["index"].tolist() == row["index"] and saved["image"].shape[0] == BATCH


@pytest.mark.parametrize("mesh", [("-1", "1"), ("1", "-1")])
def test_a_finite_step_has_the_numbers_that_the_run_logged(rewound, mesh):
    logged = next(r for r in read_metrics(rewound) if r["step"] == 5)
    printed = replayed(f"--workdir={rewound}", "--step=5", mesh=mesh)
    for name in ("loss", "grad_norm"):
        assert float(re.search(rf"\b{name} +(\S+)", printed)[1]) == pytest.approx(
            logged[f"train/{name}"], 2e-5
        )
    assert "are finite" in printed and "!" not in printed


def test_a_step_that_met_several_batches_shows_the_refused_one_or_the_one_that_is_asked_for(
    rewound, pictures, tmp_path, capsys  # noqa: F811
):
    step = bad_batches(pictures)[1]
    known = replay.left_out(Workdir(rewound))
    assert len(known) >= 2 and known == tuple(bad_batches(pictures)[: len(known)])
    assert replay.find_attempt(rewound, known, step).left_out == known[:1]
    kept = replay.find_attempt(rewound, known, step, step + 1)
    assert kept.refused is None and kept.left_out == tuple(bad_batches(pictures)[:2])
    with pytest.raises(UserError, match=rf"--batch=1: step {step} met {step}, {step + 1}"):
        replay.find_attempt(rewound, known, step, 1)
    lines = [dict(step=7, batch=6), dict(step=7, batch=7), dict(step=19, batch=20), dict(step=21, batch=23)]
    lines = [line | {"decision": "stop" if line["step"] == 21 else "rewind"} for line in lines]
    (tmp_path / nonfinite.FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    known = replay.left_out(Workdir(tmp_path))  # before any checkpoint
    assert known == (6, 7, 20)
    for asked, batch, left_out in [(None, 7, (6,)), (6, 6, ()), (8, 8, (6, 7))]:
        assert replay.find_attempt(tmp_path, known, 7, asked)[1:3] == (batch, left_out)
    assert "met batches 6, 7" in capsys.readouterr().out
    assert replay.find_attempt(tmp_path, known, 19)[1:3] == (20, (6, 7))
    assert replay.find_attempt(tmp_path, known, 20)[1:3] == (22, known)
    assert replay.find_attempt(tmp_path, known, 21)[1:3] == (23, known)


def test_what_cannot_be_replayed_is_refused_with_the_remedy(rewound, monkeypatch):
    with pytest.raises(UserError, match=r"--step=0: steps are counted from 1"):
        replayed(rewound, "--step=0")
    with pytest.raises(UserError, match=rf"--step={STEPS + 1}: the run has {STEPS} steps"):
        replayed(rewound, f"--step={STEPS + 1}")
    with pytest.raises(UserError, match=r"config\.seed: a replay does what the run did"):
        replayed(rewound, "--step=3", f"--config.seed={SEED + 1}")
    with pytest.raises(UserError, match="name one directory"):
        replayed("--step=3")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "complete_steps", lambda folder: [8])
        with pytest.raises(UserError, match=r"lies before step 6 \(it has 8\); --from_start does all the 5"):
            replayed(rewound, "--step=6")


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
