"""Decoding processes that die, for real."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from vitjax.data import pipeline, workers
from vitjax.errors import RunError


class Stuck:
    """Gives every process 64 pictures; after these, `then` happens to whoever asks for one."""

    class_names = {}

    def __init__(self, then):
        self._then, self._given = then, 0

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        self._given += 1
        if self._given > 64:
            time.sleep(600) if self._then == "sleep" else os._exit(0)
        return {"image": np.full((4, 4, 3), index % 256, np.uint8)}

    def name(self, index):
        return str(index)


class Loaded:
    """Tells what the process that reads it has loaded."""

    class_names = {}

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        bridge = sys.modules.get("jax._src.xla_bridge")
        loaded = [name in sys.modules for name in ("jax", "torch", "tensorflow", "vitjax.main")]
        backends = len(bridge._backends) if bridge else 0
        return {"image": np.zeros((4, 4, 3), np.uint8), "loaded": np.array(loaded), "backends": backends}

    def name(self, index):
        return str(index)


def batches_of(source, fields=None):
    return pipeline.train_batches(
        source, batch_size=4, rows=np.arange(4), seed=0, start_step=0, canvas_px=4, crop="device", size_px=4,
        crop_area=(0.2, 1.0), crop_aspect=(0.75, 1.33), resize="bicubic", workers=2,
        fields=fields,
    )  # fmt: skip


def kill_one():
    (victim, *_) = multiprocessing.active_children()
    os.kill(victim.pid, signal.SIGKILL)


@pytest.mark.parametrize("then, how", [("sleep", r"was killed \(SIGKILL"), ("leave", "left with exit code 0")])
def test_a_process_that_dies_while_the_trainer_waits_ends_the_run_with_the_remedy(then, how, monkeypatch):
    monkeypatch.setattr(workers, "GRACE_S", 3.0)
    others = workers.running()
    with batches_of(Stuck(then)) as batches:
        if then == "sleep":
            assert len(next(batches)["index"]) == 4
            threading.Timer(1.0, kill_one).start()
        before = time.monotonic()
        with pytest.raises(RunError, match=rf"{how}.*same command.*config\.data\.workers=2, or 0"):
            while True:
                next(batches)
        assert time.monotonic() - before < 30
        before = time.monotonic()
    assert time.monotonic() - before < 6, "closing waits for nobody"
    deadline = time.monotonic() + 5
    while workers.running() - others and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers.running() - others


def test_what_a_process_raises_is_raised_as_it_is_and_a_good_end_is_no_death():
    class Raises(Stuck):
        def __getitem__(self, index):
            if index == 7:
                raise KeyError("index 7")
            return {"image": np.full((4, 4, 3), index % 256, np.uint8)}

    source = Raises("")
    source.__class__.__len__ = lambda self: 20
    how = dict(batch_size=4, rows=np.arange(4), canvas_px=4, workers=1)
    with pipeline.eval_batches(source, limit=0, **how) as batches, pytest.raises(KeyError, match="index 7"):
        list(batches)
    with pipeline.eval_batches(Stuck(""), limit=8, **how) as batches:
        assert sum(batch["valid"].sum() for batch in batches) == 8


def print_loaded(argv):
    """The main of a command."""
    with batches_of(Loaded(), fields=("loaded", "backends")) as batches:
        batch = next(batches)
        print(batch["loaded"].any(0).tolist(), batch["backends"].max())


def test_a_process_of_a_command_loads_no_framework_and_not_the_command():
    code = f"""if True:
        import importlib.util, sys
        sys.path[:0] = {sys.path!r}
        import test_workers
        from vitjax import cli
        # As python -m vitjax.main has it.
        sys.modules["__main__"].__spec__ = importlib.util.find_spec("vitjax.main")
        cli.run(test_workers.print_loaded)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[False, False, False, False] 0\n", done.stderr
    assert "jax" not in done.stderr


def test_a_process_of_anybodys_program_opens_no_backend():
    with batches_of(Loaded(), fields=("loaded", "backends")) as batches:
        batch = next(batches)
    assert batch["backends"].max() == 0 and not batch["loaded"][:, 1:].any()


CHILD = """
import sys, time
sys.path[:0] = {path!r}
import test_workers
from vitjax.data import workers
if __name__ == "__main__":
    batches = test_workers.batches_of(test_workers.Stuck("sleep"))
    next(batches)
    print(*(process.pid for process in workers.running()), flush=True)
    time.sleep(600)
"""


def test_the_processes_of_a_trainer_that_was_killed_leave_too(tmp_path):
    (tmp_path / "child.py").write_text(CHILD.format(path=sys.path))
    child = subprocess.Popen([sys.executable, str(tmp_path / "child.py")], stdout=subprocess.PIPE, text=True)
    try:
        pids = [int(pid) for pid in child.stdout.readline().split()]
    finally:
        child.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(map(_is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_is_running, pids))


def _is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
