"""Steps that are not finite: refused, written down, and then skipped, stopped at, or taken back."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vitjax import checkpoint, cli, experiment, loop, nonfinite, sharding, stored
from vitjax import main as main_module
from vitjax.data.batches import batch_of, order
from vitjax.data.sources.folder import FolderSource
from vitjax.errors import RunError, UserError
from vitjax.jsonl import read as read_rows
from vitjax.objectives import mae
from vitjax.periods import due
from vitjax.progress import Progress

CONFIG = Path(__file__).parents[1] / "configs" / "mae_vitb.py"
PICTURES, BATCH, STEPS = 40, 8, 12  # 5 batches an epoch
SEED = 455  # the bad picture is in batches 2, 6, 10 and 15


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of two classes, of which the second has one picture, the bad one."""
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        file = path / ("bad" if i == 0 else "good") / f"{i:03d}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(file)
    return path


@pytest.fixture
def poison(monkeypatch):
    """Makes the loss NaN where `bad(batch, step)` says so for any picture."""
    build = mae.from_loss

    def install(bad):
        def poisoned(*, loss, **how):
            def poisoned_loss(params, extra, batch, key, step):
                value, out = loss(params, extra, batch, key, step)
                return value * jnp.where(jnp.any(bad(batch, step)), jnp.nan, 1.0), out

            return build(loss=poisoned_loss, **how)

        monkeypatch.setattr(mae, "from_loss", poisoned)

    return install


def bad_picture(batch, step):
    return batch["label"] == 0  # of class 'bad'


def run(workdir, pictures, *more, stop=lambda: False):
    given = [
        f"--config={CONFIG}:tiny", f"--config.data.path={pictures}", f"--config.batch_size={BATCH}",
        f"--config.total_steps={STEPS}", "--config.log.every_steps=1", "--config.checkpoint.every_steps=4",
        "--config.checkpoint.keep=0", "--config.optim.base_lr=0.01", f"--config.seed={SEED}",
        "--config.mesh.data=-1", "--config.mesh.fsdp=1", *more,
    ]  # fmt: skip
    return main_module.train(cli.load_config(given), workdir, given=cli.keys(given), stop=stop)


def stop_after(calls):
    asked = itertools.count(1)
    return lambda: next(asked) == calls


def left_out_of(workdir):
    """What the newest checkpoint says."""
    return stored.read_meta(stored.complete(workdir / "checkpoints", None)).left_out


def weights(workdir, step=None):
    return checkpoint.read_variables(workdir, ("params", "extra", "opt"), step)


def assert_same(some, others):
    assert some.keys() == others.keys()
    for path in some:
        np.testing.assert_array_equal(some[path], others[path], err_msg=path)


def bad_batches(pictures, seed=SEED, epochs=4):
    """The numbers of the batches that hold the bad picture, found without the code under test."""
    source = FolderSource(str(pictures), "train")
    (bad,) = [i for i in range(len(source)) if "bad" in source.name(i)]
    return [int(i) // BATCH for i in np.flatnonzero(order(np.arange(epochs * PICTURES), PICTURES, seed) == bad)]


def test_skip_goes_on_names_the_pictures_and_says_so(tmp_path, pictures, poison, capsys):
    poison(bad_picture)
    assert run(tmp_path, pictures, "--config.checkpoint.every_steps=1")
    bad = [number for number in bad_batches(pictures) if number < STEPS]
    rows = nonfinite.read(tmp_path)
    assert len(bad) >= 2 and [row["step"] - 1 for row in rows] == [row["batch"] for row in rows] == bad
    source = FolderSource(str(pictures), "train")
    for row in rows:
        positions = row["batch"] * BATCH + np.arange(BATCH)
        assert row["index"] == order(positions, PICTURES, SEED).tolist()
        assert row["name"] == [source.name(i) for i in row["index"]]
        assert row["key"] == jax.random.key_data(loop.step_key(SEED, row["step"] - 1)).tolist()
        assert row["loss"] is row["grad_norm"] is row["metrics"]["loss"] is None
        assert row["not_finite"] == {"loss": "nan", "grad_norm": "nan"} and row["decision"] == "skip"
        assert row["metrics"]["learning_rate"] > 0
        assert_same(weights(tmp_path, row["step"] - 1), weights(tmp_path, row["step"]))
    logged = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in logged if row["train/skipped"]] == [row["step"] for row in rows]
    printed = capsys.readouterr().out
    assert printed.count("is not finite") == 1 and f"{len(bad)} updates were refused" in printed
    assert f"python -m vitjax.replay {tmp_path} --step={bad[0] + 1}" in printed


def test_stop_ends_the_run_and_names_step_file_and_command(tmp_path, pictures, poison):
    poison(bad_picture)
    step = bad_batches(pictures)[0] + 1
    with pytest.raises(RunError, match=rf"step {step}: .*loss=nan.*nonfinite\.jsonl.*--step={step}"):
        run(tmp_path, pictures, "--config.nonfinite=stop")
    assert [row["decision"] for row in nonfinite.read(tmp_path)] == ["stop"]
    assert all(saved < step for saved in checkpoint.complete_steps(tmp_path / "checkpoints"))


def test_rewind_leaves_out_the_batches_that_did_it_and_ends_like_a_run_that_never_had_them(
    tmp_path, pictures, poison, capsys, monkeypatch
):
    poison(bad_picture)
    assert run(tmp_path / "rewinds", pictures, "--config.nonfinite=rewind")
    bad = bad_batches(pictures)
    left_out = left_out_of(tmp_path / "rewinds")
    assert len(left_out) >= 2 and list(left_out) == bad[: len(left_out)]
    assert capsys.readouterr().out.count("back to the newest checkpoint") == len(left_out)
    assert [row["decision"] for row in nonfinite.read(tmp_path / "rewinds")] == ["rewind"] * len(left_out)
    rows = read_rows(tmp_path / "rewinds" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert not any(row["train/skipped"] for row in rows)
    assert any(row["train/skipped"] for row in read_rows(tmp_path / "rewinds" / "metrics.discarded.jsonl"))
    made = experiment.train_loader

    def knowing(*how):
        loader = made(*how)
        return lambda start_step, _: loader(start_step, left_out)

    monkeypatch.setattr(experiment, "train_loader", knowing)
    assert run(tmp_path / "knew", pictures, "--config.nonfinite=stop")
    for step in (4, 8, STEPS):
        assert_same(weights(tmp_path / "rewinds", step), weights(tmp_path / "knew", step))
    knew = read_rows(tmp_path / "knew" / "metrics.jsonl")
    assert [row["train/loss"] for row in knew] == [row["train/loss"] for row in rows]


def test_a_rewinding_run_that_is_interrupted_ends_as_an_unbroken_one_to_the_bit(tmp_path, pictures, poison):
    poison(bad_picture)
    settings = ["--config.nonfinite=rewind"]
    run(tmp_path / "whole", pictures, *settings)
    with pytest.raises(RunError, match="after 1 rewinds"):
        run(tmp_path / "cut", pictures, *settings, "--config.max_rewinds=1")
    for calls in itertools.cycle((4, 5)):
        # As on another machine, when the last push of the logs had failed.
        (tmp_path / "cut" / nonfinite.FILE).rename(tmp_path / f"lines_{len(list(tmp_path.glob('lines_*')))}")
        if run(tmp_path / "cut", pictures, *settings, stop=stop_after(calls)):
            break
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    left_out = [left_out_of(tmp_path / name) for name in ("whole", "cut")]
    assert left_out[0] == left_out[1] and len(left_out[0]) >= 2
    lines = [row for file in (*tmp_path.glob("lines_*"), tmp_path / "cut" / nonfinite.FILE) for row in read_rows(file)]
    for row in nonfinite.read(tmp_path / "whole"):
        assert row in lines
    rows = [read_rows(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    assert [r["train/loss"] for r in rows[0]] == [r["train/loss"] for r in rows[1]]


def toy_run(workdir, policy, refused, left_out=(), first_step=0, steps=14, save_every_steps=4):
    """The steps after which a run saved, if the updates of the batches in `refused` are."""
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    saved = []

    def step_fn(state, batch):
        number = int(batch["number"][0])
        numbers = {"loss": np.nan if number in refused else 1.0, "skipped": number in refused}
        return state, {name: jnp.float32(value) for name, value in numbers.items()}

    def save(event):
        if event.step % save_every_steps == 0 or event.last:
            saved.append(event.step)

    def batches():
        for n in itertools.count(first_step):
            rows = np.arange(8, dtype=np.int64)
            yield {"row": rows, "index": rows, "number": rows * 0 + batch_of(n, left_out)}

    progress = Progress(total_steps=steps, batch_size=8)
    hook = nonfinite.hook(
        workdir,
        None,
        progress,
        policy,
        seed=0,
        left_out=left_out,
        saves=lambda event: due(event.step, save_every_steps, event.last),
    )
    try:
        loop.train(
            step_fn, None, batches(), first_step=first_step, total_steps=steps, mesh=mesh, hooks=[hook, save]
        )  # fmt: skip
    except (nonfinite.Rewind, RunError) as error:
        return saved, error
    return saved, None


@pytest.mark.parametrize("offending", range(1, 15))
def test_no_checkpoint_is_saved_that_is_not_known_to_be_clean(tmp_path, offending):
    """Wherever the refused step lies beside a save: just before it, on it, just after it, or last of all."""
    policy = nonfinite.Policy("rewind", 2)
    saved, error = toy_run(tmp_path, policy, {offending - 1})
    assert (error.step, error.batch) == (offending, offending - 1)
    assert all(step < offending for step in saved)


def test_rewinds_come_to_an_end(tmp_path):
    policy, refused, first_step = nonfinite.Policy("rewind", 2), {6, 7, 8, 9}, 4
    for left_out in ((), (6,)):
        error = toy_run(tmp_path, policy, refused, left_out, first_step)[1]
        assert isinstance(error, nonfinite.Rewind) and (error.step, error.batch) == (7, 6 + len(left_out))
    error = toy_run(tmp_path, policy, refused, (6, 7), first_step)[1]
    assert isinstance(error, RunError) and "after 2 rewinds (config.max_rewinds=2)" in str(error)
    rows = nonfinite.read(tmp_path)
    assert [(row["batch"], row["decision"]) for row in rows] == [(6, "rewind"), (7, "rewind"), (8, "stop")]


def test_a_killed_run_that_does_a_step_again_writes_no_line_twice(tmp_path):
    for first_step in (4, 4, 0):
        assert toy_run(tmp_path, nonfinite.Policy("skip", 0), {5, 6}, first_step=first_step)[1] is None
        with open(tmp_path / nonfinite.FILE, "a") as file:
            file.write('{"step": 9, "ba')
    assert [row["step"] for row in nonfinite.read(tmp_path)] == [6, 7]


def test_weights_that_are_gone_end_the_run_and_single_bad_batches_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(nonfinite, "MAX_IN_A_ROW", 4)
    policy = nonfinite.Policy("skip", 0)
    assert toy_run(tmp_path, policy, {0, 1, 2, 4, 5, 6, 8})[1] is None
    saved, error = toy_run(tmp_path, policy, {1, 4, 5, 6, 7, 8, 9}, steps=30)
    assert isinstance(error, RunError) and "like the 3 steps before it. It is the weights" in str(error)
    assert saved == [4] and "step 8:" in str(error)


class Refused(dict):
    """Metrics whose numbers note that somebody waited for them."""

    def __init__(self, seen, step, refused=False):
        super().__init__(loss=jnp.float32(1), grad_norm=jnp.float32(1))

        class Skipped:
            def copy_to_host_async(self):
                pass

            def __float__(self):
                seen.append(step)
                return float(refused)

        self["skipped"] = Skipped()


def test_the_hook_looks_at_steps_that_are_done_and_at_all_of_them_before_a_save(tmp_path):
    seen, when = [], {}
    progress = Progress(total_steps=9, batch_size=1)
    policy = nonfinite.Policy("stop", 0)
    hook = nonfinite.hook(tmp_path, None, progress, policy, seed=0, left_out=(), saves=lambda e: due(e.step, 5, e.last))
    batch = {"row": np.arange(2), "index": np.arange(2)}
    for step in range(1, 9):
        hook(loop.Event(step, None, Refused(seen, step), batch, 0.0, step == 8))
        when[step] = list(seen)
    assert when[2] == [] and when[3] == [1] and when[4] == [1, 2]
    assert when[5] == [1, 2, 3, 4, 5] and when[7] == [1, 2, 3, 4, 5]
    assert when[8] == list(range(1, 9))
    assert loop.IN_FLIGHT == 2


@pytest.mark.parametrize(
    "more, message",
    [
        ("--config.nonfinite=ignore", r"config\.nonfinite='ignore' must be one of skip, stop, rewind"),
        ("--config.max_rewinds=-1", r"config\.max_rewinds=-1"),
    ],
)
def test_policies_that_are_not_known_are_refused(tmp_path, pictures, more, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, pictures, more)
