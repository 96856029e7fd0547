"""Remote run directories, with a scheme of the tests' own: bucket:// is a folder that counts and can fail."""

import json
import shutil
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from etils import epath

import vitjax
from vitjax import cli, evaluate, experiment, export, lease, multihost, workdir
from vitjax import main as main_module
from vitjax.errors import RunError, UserError
from vitjax.workdir import Workdir

CONFIG = Path(__file__).parents[1] / "configs" / "mae_vitb.py"


@epath.register_path_cls("bucket://")
class Stored(epath.gpath.PosixGPath):
    """What epath.Path makes of 'bucket://...': a path in the folder `behind`."""

    behind = ""
    writes: list[str] = []
    down = False

    # Paths are filled in __new__ up to Python 3.11, and in __init__ from 3.12 on.
    if sys.version_info < (3, 12):

        def __new__(cls, *parts):
            return super().__new__(cls, *map(cls.mapped, parts))

    else:

        def __init__(self, *parts):
            super().__init__(*map(self.mapped, parts))

    @classmethod
    def mapped(cls, part):
        return str(part).replace("bucket:/", cls.behind, 1)

    def write_bytes(self, data):
        if Stored.down:
            raise ConnectionError("the bucket is down")
        Stored.writes.append(self.name)
        return super().write_bytes(data)

    def iterdir(self):
        if Stored.down:
            raise ConnectionError("the bucket is down")
        return super().iterdir()


@pytest.fixture(autouse=True)
def bucket(tmp_path, monkeypatch):
    """The folder behind bucket://."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    monkeypatch.setattr(Stored, "behind", str(folder))
    monkeypatch.setattr(Stored, "writes", [])
    monkeypatch.setattr(Stored, "down", False)
    monkeypatch.setattr(workdir, "RETRY_S", 0.05)
    use_machine(tmp_path / "a", monkeypatch)
    return folder


def use_machine(cache, monkeypatch):
    """Another cache folder: another machine."""
    monkeypatch.setenv("VITJAX_CACHE", str(cache))


def started(path="bucket://run"):
    home = Workdir(path)
    home.fetch()
    return home


def eventually(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_local_directory_is_its_own_mirror(tmp_path):
    home = started(tmp_path / "run")
    assert home.local == tmp_path / "run" and not home.is_remote
    home.push()
    home.close()
    assert not home.local.exists()


def test_what_changed_follows_and_nothing_else(bucket):
    home = started()
    (home.local / "pictures").mkdir()
    (home.local / "metrics.jsonl").write_text("1\n")
    (home.local / "pictures" / "a.png").write_bytes(b"a")
    (home.local / "config.json.partial").write_text("half")
    home.push()
    eventually(lambda: (bucket / "run" / "pictures" / "a.png").exists())
    (home.local / "metrics.jsonl").write_text("1\n2\n")
    home.close()
    assert Stored.writes == ["metrics.jsonl", "a.png", "metrics.jsonl"]
    assert (bucket / "run" / "metrics.jsonl").read_text() == "1\n2\n"
    assert not list(bucket.rglob("*.partial"))
    Stored.writes.clear()
    again = started()
    again.close()
    assert Stored.writes == []


def test_a_push_that_fails_is_said_and_tried_again(bucket, caplog):
    home = started()
    (home.local / "metrics.jsonl").write_text("1\n")
    Stored.down = True
    home.push()
    eventually(lambda: caplog.text.count("could not be written, and the run goes on") >= 2)
    assert "the bucket is down" in caplog.text and str(home.local) in caplog.text
    Stored.down = False
    eventually(lambda: (bucket / "run" / "metrics.jsonl").exists())
    home.close()
    assert "lacks the newest logs" not in caplog.text


def test_a_run_that_ends_while_the_remote_is_down_says_where_its_logs_are(bucket, caplog):
    home = started()
    (home.local / "metrics.jsonl").write_text("1\n")
    Stored.down = True
    home.close()
    assert "bucket/run lacks the newest logs" in caplog.text and str(home.local) in caplog.text
    Stored.down = False
    again = started()  # the next start on this machine
    assert (again.local / "metrics.jsonl").read_text() == "1\n"
    again.close()
    assert (bucket / "run" / "metrics.jsonl").read_text() == "1\n"


def test_a_push_that_is_slow_holds_nobody_up(monkeypatch):
    home = started()
    (home.local / "metrics.jsonl").write_text("1\n")
    monkeypatch.setattr(Stored, "write_bytes", lambda self, data: time.sleep(1))
    before = time.monotonic()
    home.push()
    home.push()
    assert time.monotonic() - before < 0.5
    home.close()


def test_another_machine_goes_on_with_the_logs(bucket, tmp_path, monkeypatch):
    (bucket / "run" / "checkpoints" / "5").mkdir(parents=True)
    (bucket / "run" / "tensorboard").mkdir()
    (bucket / "run" / "metrics.jsonl").write_text("1\n")  # put there by hand: no push of ours
    home = started()
    assert sorted(p.name for p in home.local.iterdir() if p.name != workdir.STAMP) == ["metrics.jsonl", "tensorboard"]
    home.close()
    use_machine(tmp_path / "b", monkeypatch)
    other = started()
    (other.local / "metrics.jsonl").write_text("1\n2\n")
    other.close()
    assert (bucket / "run" / "metrics.jsonl").read_text() == "1\n2\n"


def test_a_machine_that_comes_back_takes_what_others_pushed(bucket, tmp_path, monkeypatch):
    first = started()
    (first.local / "metrics.jsonl").write_text("1\n")
    first.close()
    (first.local / "metrics.jsonl").write_text("1\nlost\n")  # killed before this could follow
    use_machine(tmp_path / "b", monkeypatch)
    second = started()
    assert (second.local / "metrics.jsonl").read_text() == "1\n"
    (second.local / "metrics.jsonl").write_text("1\n2\n")
    second.close()
    use_machine(tmp_path / "a", monkeypatch)
    back = started()
    assert (back.local / "metrics.jsonl").read_text() == "1\n2\n"
    old = back.local.with_name(back.local.name + ".old")
    assert (old / "metrics.jsonl").read_text() == "1\nlost\n"


def test_a_machine_that_was_killed_keeps_what_had_not_followed():
    first = started()
    (first.local / "metrics.jsonl").write_text("1\n")
    first.close()
    (first.local / "metrics.jsonl").write_text("1\n2\n")
    assert (started().local / "metrics.jsonl").read_text() == "1\n2\n"


def test_a_fetch_that_breaks_off_is_done_again(bucket, monkeypatch):
    (bucket / "run").mkdir()
    (bucket / "run" / "metrics.jsonl").write_text("1\n")
    read = Stored.read_bytes

    def broken(self):
        raise ConnectionError("gone")

    monkeypatch.setattr(Stored, "read_bytes", broken)
    with pytest.raises(RunError, match="bucket/run cannot be opened: ConnectionError: gone.*credentials.*gcsfs"):
        started()
    monkeypatch.setattr(Stored, "read_bytes", read)
    assert (started().local / "metrics.jsonl").read_text() == "1\n"


def lease_of(bucket):
    return bucket / "run" / lease.FILE


def write_lease(bucket, age_s, machine="another"):
    there = {"id": machine, "host": "node7", "pid": 12, "since": "2026-11-24 10:00:00", "time": time.time() - age_s}
    lease_of(bucket).parent.mkdir(parents=True, exist_ok=True)
    lease_of(bucket).write_text(json.dumps(there))


def test_a_second_machine_is_refused_while_the_first_is_alive_and_let_in_afterwards(bucket, tmp_path, monkeypatch):
    with Workdir("bucket://run").hold():
        use_machine(tmp_path / "b", monkeypatch)
        message = rf"bucket/run: another run .* on {socket.gethostname()} since .*alive \d s ago; .*another --workdir"
        with pytest.raises(lease.Taken, match=message) as refused:
            with Workdir("bucket://run").hold():
                pass
        assert multihost._exit_code(refused.value) == 75  # which the launch scripts try again
        assert lease_of(bucket).exists()
    assert not lease_of(bucket).exists()
    with Workdir("bucket://run").hold():
        assert lease_of(bucket).exists()


def test_a_machine_that_fell_silent_is_followed_and_a_fresh_one_is_not(bucket, capsys):
    write_lease(bucket, age_s=lease.FRESH_S - 60)
    with pytest.raises(lease.Taken, match=r"process 12 on node7 .*alive 120 s ago.*goes on in 60 s"):
        with Workdir("bucket://run").hold():
            pass
    write_lease(bucket, age_s=3700)
    with Workdir("bucket://run").hold():
        assert "process 12 on node7" not in lease_of(bucket).read_text()
    assert "is taken over: process 12 on node7" in capsys.readouterr().out


def test_a_run_that_was_killed_is_followed_at_once_on_its_own_machine(bucket, capsys):
    with Workdir("bucket://run").hold():
        left_behind = lease_of(bucket).read_text()
    lease_of(bucket).write_text(left_behind)
    with Workdir("bucket://run").hold():
        pass
    assert capsys.readouterr().out == ""


def test_a_second_run_on_the_same_machine_is_refused(bucket):
    with Workdir("bucket://run").hold():
        with pytest.raises(UserError, match=r"--workdir=.*bucket/run: another run is at work there \(process"):
            with Workdir("bucket://run").hold():
                pass
        assert lease_of(bucket).exists()


def test_a_lease_is_renewed_whatever_fails_in_between(bucket, monkeypatch, caplog):
    monkeypatch.setattr(lease, "REFRESH_S", 0.02)
    with Workdir("bucket://run").hold():
        began = json.loads(lease_of(bucket).read_text())["time"]
        with monkeypatch.context() as patch:
            patch.setattr(Stored, "write_text", lambda *_: (_ for _ in ()).throw(ConnectionError("down")))
            eventually(lambda: "could not be renewed: ConnectionError: down" in caplog.text)
        eventually(lambda: json.loads(lease_of(bucket).read_text())["time"] > began)


def test_a_run_that_was_taken_over_ends_before_it_writes_again(bucket, monkeypatch):
    monkeypatch.setattr(lease, "REFRESH_S", 0.02)
    home = Workdir("bucket://run")
    with pytest.raises(RunError, match=r"bucket/run was taken over by process 12 on node7"):
        with home.hold():
            home.fetch()
            (home.local / "metrics.jsonl").write_text("1\n")
            write_lease(bucket, age_s=0)
            eventually(lambda: home._lease._lost)
            home.push()
    assert "node7" in lease_of(bucket).read_text()
    assert not (bucket / "run" / "metrics.jsonl").exists()


def test_of_two_that_start_at_the_same_time_one_is_refused(bucket, monkeypatch):
    write = Stored.write_text

    def overtaken(self, text, *more):
        written = write(self, text, *more)
        if self.name == lease.FILE:
            write_lease(bucket, age_s=0)
        return written

    monkeypatch.setattr(Stored, "write_text", overtaken)
    with pytest.raises(lease.Taken, match="node7"):
        with Workdir("bucket://run").hold():
            pass
    assert "node7" in lease_of(bucket).read_text()


def test_a_remote_that_cannot_be_reached_is_said_at_the_lease_too(monkeypatch):
    monkeypatch.setattr(Stored, "read_text", lambda self: (_ for _ in ()).throw(ConnectionError("gone")))
    with pytest.raises(RunError, match="bucket/run cannot be opened: ConnectionError: gone"):
        with Workdir("bucket://run").hold():
            pass


def test_a_local_directory_needs_no_lease(tmp_path):
    with Workdir(tmp_path / "run").hold():
        pass
    assert not (tmp_path / "run").exists()


def test_processes_other_than_the_first_fetch_the_config_alone(bucket, monkeypatch):
    (bucket / "run" / "tensorboard").mkdir(parents=True)
    for name in ("config.json", "metrics.jsonl", lease.FILE):
        (bucket / "run" / name).write_text("{}")
    monkeypatch.setattr(workdir.jax, "process_index", lambda: 1)
    home = started()
    assert sorted(path.name for path in home.local.iterdir()) == [workdir.STAMP, "config.json"]
    with home.hold():  # the first process's business
        assert lease_of(bucket).read_text() == "{}"


def test_an_unknown_kind_of_path_is_refused(tmp_path):
    with pytest.raises(UserError, match="gcs://bucket/run: there is no gcs://; gs:// and s3://"):
        Workdir("gcs://bucket/run")
    with pytest.raises(UserError, match="there is no gcs://"):
        vitjax.load("gcs://bucket/run")
    with pytest.raises(UserError, match="--out=gs://x: an export is written to a local directory"):
        export.export(tmp_path, "gs://x")


def test_a_remote_run_goes_on_elsewhere_and_can_be_read(bucket, tmp_path, monkeypatch):
    def train(*more):
        given = [f"--config={CONFIG}:tiny", "--config.log.every_steps=1", *more]
        return main_module.train(cli.load_config(given), "bucket://runs/mae", given=cli.keys(given))

    assert train()
    run = bucket / "runs" / "mae"
    assert {"checkpoints", "config.json", "metrics.jsonl", "tensorboard"} <= {p.name for p in run.iterdir()}
    assert (run / "checkpoints" / "2").is_dir() and not (run / lease.FILE).exists()
    assert not (Workdir("bucket://runs/mae").local / "checkpoints").exists()
    use_machine(tmp_path / "b", monkeypatch)
    assert train("--config.total_steps=3")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]

    shutil.copytree(run, tmp_path / "copy")
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    models = [vitjax.load(path) for path in ("bucket://runs/mae", tmp_path / "copy")]
    np.testing.assert_array_equal(*(model.features(pictures) for model in models))
    assert experiment.read("bucket://runs/mae").config.total_steps == 3
    exported = export.export("bucket://runs/mae", tmp_path / "export")
    shutil.copytree(exported, bucket / "export")
    np.testing.assert_allclose(
        vitjax.load("bucket://export").features(pictures), models[0].features(pictures), atol=1e-6
    )
    (run / "evaluations.jsonl").write_text('{"eval/knn/n": 5}\n')
    only_knn = ["knn.fields=('label/shape',)", "knn.baselines=()", "linear.every_steps=-1"]
    evaluate.main(["--workdir=bucket://runs/mae", *(f"--config.evals.{setting}" for setting in only_knn)])
    assert len((run / "evaluations.jsonl").read_text().splitlines()) == 2
