"""Several real processes on loopback do what one does with as many devices, and end together."""

import json
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import processes
import pytest
import watched_main
from PIL import Image

from vitjax import checkpoint, cli, loop, multihost, sharding
from vitjax import main as main_module
from vitjax.errors import UserError

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.py"
STEPS, CUT, BATCH = 8, 4, 16
BROKEN = {"train/cat/002.png", "train/cat/010.png", "train/dog/005.png", "train/dog/017.png", "test/cat/000.png"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """36 readable pictures of 40 to train on, 22 of 23 to test on: no multiple of the batch size."""
    path, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, number in (("train", 40), ("test", 23)):
        for i in range(number):
            name = f"{split}/{('cat', 'dog')[i % 2]}/{i:03d}.png"
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (40, 50, 3), np.uint8)).save(path / name)
            if name in BROKEN:
                (path / name).write_bytes(b"no picture")
    return path


@pytest.fixture(scope="module")
def settings(pictures):
    """The flags of all runs here: wide enough that matrices are split among the processes."""
    return [
        f"--config={CONFIG}:tiny", f"--config.data.path={pictures}", f"--config.total_steps={STEPS}",
        f"--config.batch_size={BATCH}", "--config.model.width=128", "--config.model.mlp_dim=512",
        "--config.log.every_steps=1", f"--config.checkpoint.every_steps={CUT}", "--config.checkpoint.keep=0",
        "--config.log.pictures_every_steps=0", "--config.mesh.data=1", "--config.mesh.fsdp=-1",
        "--config.model.depth=1", "--config.evals.linear.every_steps=-1", "--config.evals.knn.k=3",
        "--config.evals.knn.fields=('label',)", "--config.evals.knn.baselines=()",
        # Keys' biases have no gradient but rounding, which Adam would blow up to whole steps.
        "--config.optim.eps=1e-3",
    ]  # fmt: skip


def on_one_process(settings, workdir, notes):
    """The run on one process with four devices: this one, with half of its devices."""
    make_mesh = sharding.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda config: make_mesh(config, jax.devices()[:4]))
        patch.setattr(loop, "train", watched_main.watch(notes))
        assert main_module.train(cli.load_config(settings), workdir, given=cli.keys(settings))


def on_two(settings, workdir, notes, *more):
    given = [f"--notes={notes}", f"--workdir={workdir}", *settings, *more]
    return processes.run("tests/watched_main.py", given)


@pytest.fixture(scope="module")
def one(settings, tmp_path_factory):
    """An unbroken run on one process."""
    path = tmp_path_factory.mktemp("one")
    on_one_process(settings, path / "run", path / "notes")
    return path


@pytest.fixture(scope="module")
def two(settings, tmp_path_factory):
    """An unbroken run on two processes."""
    path = tmp_path_factory.mktemp("two")
    for ended in on_two(settings, path / "run", path / "notes"):
        assert ended.code == 0, ended.output
    return path


@pytest.fixture(scope="module")
def stopped(settings, tmp_path_factory):
    """A run on two processes of which one got a SIGTERM after the second step."""
    path = tmp_path_factory.mktemp("stopped")
    return path, on_two(settings, path / "run", path / "notes", f"--signal=1:2:{signal.SIGTERM:d}")


@pytest.fixture(scope="module")
def bereft(settings, one, tmp_path_factory):
    """A run that began on one process and went on, from a checkpoint in its middle, on two; one was killed."""
    path = tmp_path_factory.mktemp("bereft")
    shutil.copytree(one / "run", path / "run")
    shutil.rmtree(path / "run" / "checkpoints" / str(STEPS))
    kill = f"--signal=1:{STEPS - 1}:{signal.SIGKILL:d}"
    return path, on_two(settings, path / "run", path / "notes", kill, "--heartbeat_timeout_s=6")


def rows(path):
    """step -> (row, record, undecodable record) of the whole global batch, by row."""
    found = {}
    for file in (path / "notes").glob("*.jsonl"):
        for note in map(json.loads, file.read_text().splitlines()):
            found.setdefault(note["step"], []).extend(zip(note["row"], note["index"], note["bad_index"]))
    return {step: sorted(batch) for step, batch in found.items()}


def metrics(path):
    lines = (path / "run" / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row for row in map(json.loads, lines)}


def assert_same_losses(path, reference, steps):
    got, wanted = metrics(path), metrics(reference)
    losses = [[m[step]["train/loss"] for step in steps] for m in (got, wanted)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_two_processes_see_the_same_rows_as_one(one, two):
    assert len(list((two / "notes").iterdir())) == 2
    assert rows(two) == rows(one)
    assert sorted(rows(two)) == list(range(1, STEPS + 1))
    assert all([row for row, *_ in batch] == list(range(BATCH)) for batch in rows(two).values())


def test_two_processes_end_with_the_weights_of_one(one, two):
    assert_same_losses(two, one, range(1, STEPS + 1))
    a, b = (checkpoint.read_variables(path / "run", checkpoint.ITEMS) for path in (one, two))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-6, err_msg=name)


def test_two_processes_evaluate_each_picture_once(one, two):
    a, b = (metrics(path)[STEPS] for path in (one, two))
    numbers = {name: value for name, value in a.items() if name.startswith("eval/")}
    assert {value for name, value in numbers.items() if name.endswith("/n")} == {22}
    assert numbers == pytest.approx({name: b[name] for name in numbers}, abs=1e-6)


def test_records_that_either_process_could_not_decode_are_listed_once(two):
    for file in (two / "notes").iterdir():
        assert any(i >= 0 for line in file.read_text().splitlines() for i in json.loads(line)["bad_index"])
    listed = [json.loads(line) for line in (two / "run" / "bad_records.jsonl").read_text().splitlines()]
    assert sorted(row["name"][-len("train/cat/002.png") :].lstrip("/") for row in listed) == sorted(BROKEN)


def test_a_signal_to_one_process_stops_and_saves_both_at_the_same_step(stopped):
    path, ended = stopped
    assert [e.code for e in ended] == [143, 143], "\n".join(e.output for e in ended)
    notes = [[json.loads(x) for x in f.read_text().splitlines()] for f in (path / "notes").iterdir()]
    last = [[note["step"] for note in process if note["last"]] for process in notes]
    # Two steps are under way when the signal comes; it is asked for after the third, and known after the fifth.
    assert last == [[3 + loop.IN_FLIGHT]] * 2
    assert checkpoint.latest_step(path / "run" / "checkpoints") == 3 + loop.IN_FLIGHT
    assert "To go on: python -m vitjax.main" in ended[0].output


def test_a_run_saved_by_two_processes_goes_on_with_one(settings, stopped, one, tmp_path):
    shutil.copytree(stopped[0] / "run", tmp_path / "run")
    on_one_process(settings, tmp_path / "run", tmp_path / "notes")
    assert min(rows(tmp_path)) == 4 + loop.IN_FLIGHT
    assert_same_losses(tmp_path, one, range(1, STEPS + 1))


def test_a_run_saved_by_one_process_goes_on_with_two(bereft, one):
    path, _ = bereft
    assert min(rows(path)) == CUT + 1
    assert_same_losses(path, one, range(1, STEPS - 1))
    assert rows(path)[CUT + 1] == rows(one)[CUT + 1]


def test_when_a_process_is_killed_the_other_says_so_and_ends(bereft):
    _, (survivor, killed) = bereft
    assert killed.code == -signal.SIGKILL
    assert survivor.code == 75, survivor.output
    assert "error: another process of this run was lost" in survivor.output
    assert "The same command, on every host, goes on" in survivor.output
    print(f"the survivor ended {survivor.after_s - killed.after_s:.1f} s later")
    assert survivor.after_s - killed.after_s < 30


def meet(*arguments):
    return processes.run("tests/meeting.py", ["--heartbeat_timeout_s=4", *arguments], devices=1)


def test_processes_that_met_end_together():
    assert [ended.code for ended in meet()] == [0, 0]


@pytest.mark.parametrize("which", [0, 1])
def test_whichever_process_is_lost_the_other_ends(which):
    ended = meet(f"--kill={which}")
    killed, survivor = ended[which], ended[1 - which]
    assert killed.code == -signal.SIGKILL
    assert survivor.code == 75 and "error: another process of this run was lost" in survivor.output, survivor.output


def test_what_one_process_refuses_ends_all_of_them():
    other, refusing = meet("--refuse=1")
    assert refusing.code == 2 and "error: a setting is wrong" in refusing.output, refusing.output
    assert other.code == 75 and "error: another process of this run was lost" in other.output, other.output


def test_what_all_processes_refuse_each_of_them_says():
    for ended in meet("--refuse=0,1"):
        assert ended.code == 2 and "error: a setting is wrong" in ended.output, ended.output
        assert "was lost" not in ended.output


def test_processes_that_are_not_found_are_an_error_with_a_remedy():
    alone = ["--coordinator_address=127.0.0.1:9", "--num_processes=2", "--process_id=1", "--initialization_timeout_s=1"]
    started = [processes.start("tests/meeting.py", own) for own in (["--distributed"], alone)]
    (nowhere, _), (waiting, _) = (process.communicate(timeout=90) for process in started)
    assert [process.returncode for process in started] == [2, 75], nowhere + waiting
    assert "error: --distributed: no cluster was found in the environment" in nowhere
    assert "error: this process could not join 127.0.0.1:9 within --initialization_timeout_s=1" in waiting
    assert "no firewall closes its port" in waiting


@pytest.mark.parametrize(
    "given, message",
    [
        (["--num_processes=2"], r"--num_processes=2: --coordinator_address, --process_id must be given too"),
        (["--coordinator_address=a:1", "--process_id=0"], r"--num_processes must be given too"),
        (["--coordinator_address=a", "--num_processes=2", "--process_id=0"], r"address=a must be HOST:PORT"),
        (["--coordinator_address=a:1", "--num_processes=2", "--process_id=2"], r"--process_id=2 must be 0 to 1"),
        (["--coordinator_address=a:1", "--num_processes=2", "--process_id=1", "--distributed"], r"leave out"),
    ],
)
def test_half_an_address_is_refused(given, message):
    options = cli.parser("vitjax.main", "")
    multihost.add_options(options)
    values, _ = cli.parse(options, given)
    with pytest.raises(UserError, match=message):
        multihost.initialize(values)


def test_one_process_agrees_with_itself_at_once():
    asked = iter([False, True])
    stop = multihost.Agreement(lambda: next(asked), mesh=None, lag=2)
    assert [stop(), stop()] == [False, True]
