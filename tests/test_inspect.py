import json
import os
import shutil
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from vitjax import inspect
from vitjax.checkpoint import Checkpointer
from vitjax.errors import UserError
from vitjax.inspect import inspect as look


class State(NamedTuple):
    step: Any
    params: Any
    opt: Any
    extra: Any


CONFIG = {
    "seed": 7,
    "batch_size": 64,
    "objective": {"name": "mae"},
    "model": {"name": "vit"},
    "data": {"path": "", "builtin": "scenes", "source": "auto", "size_px": 32},
    "checkpoint": {"keep": 2, "keep_best": "eval/knn/accuracy", "keep_best_mode": "max"},
}


def write_config(folder, **more):
    run = {"total_steps": 40, "steps_per_epoch": 8.0}
    (folder / "config.json").write_text(json.dumps({"format": 1, "config": CONFIG, "run": run, **more}))


@pytest.fixture
def run(tmp_path):
    """A run with the checkpoints 1, 2 and 3."""
    write_config(tmp_path)
    rows = [{"step": 1, "train/loss": 0.5}, {"step": 2, "train/loss": 0.25, "eval/knn/accuracy": 0.75}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "tr')
    (tmp_path / "bad_records.jsonl").write_text("{}\n{}\n")
    (tmp_path / "history.jsonl").write_text("{}\n" * 4)
    with Checkpointer(tmp_path / "checkpoints", keep=0) as checkpointer:
        for step in (1, 2, 3):
            params = {"backbone": {"w": jnp.arange(3000.0) + step}, "head": {"b": jnp.ones((5,), jnp.bfloat16)}}
            checkpointer.save(step, State(jnp.int32(step), params, {"mu": jnp.zeros(2)}, {}), (4, 9)[: step - 1])
    return tmp_path


def line(text, start):
    return next(x for x in text.splitlines() if x.startswith(start))


def damage(run, step):
    wanted = (np.arange(3000, dtype=np.float32) + step).tobytes()
    for path in (run / "checkpoints" / str(step)).rglob("*"):
        data = bytearray(path.read_bytes() if path.is_file() else b"")
        if (at := data.find(wanted)) >= 0:
            data[at + 700] ^= 4
            path.write_bytes(data)
            return
    raise AssertionError("the array is not there")


def test_a_run_is_told_on_a_page(run):
    text, damaged = look(run)
    assert not damaged
    assert line(text, "objective").endswith("mae with vit")
    assert line(text, "data").endswith("scenes, 32 px, batches of 64")
    assert line(text, "length").endswith("40 steps = 5.0 epochs")
    assert line(text, "seed").endswith("7")
    assert line(text, "progress").endswith("step 2, train/loss 0.25, eval/knn/accuracy 0.75")
    assert line(text, "left out").endswith("batches 4, 9")
    assert line(text, "bad records").endswith(" 2") and line(text, "starts").endswith(" 4")
    assert line(text, "2 ").endswith("complete; best, eval/knn/accuracy = 0.75")
    assert line(text, "params/backbone").split() == ["params/backbone", "1", "arrays", "3,000", "12", "kB"]
    assert line(text, "params/head").split()[-2:] == ["10", "B"]
    assert line(text, "all parameters").split()[-1] == "3,005"
    assert "params/backbone/w  float32[3000]" in look(run, parameters=True)[0]


def test_a_look_from_python_leaves_the_environment_alone(run, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    look(run, verify=True)
    assert os.environ["JAX_PLATFORMS"] == ""


def test_a_changed_byte_is_found_by_verify_alone(run):
    damage(run, 2)
    assert not look(run)[1]
    text, damaged = look(run, verify=True)
    assert damaged
    assert line(text, "2 ").count("DAMAGED: params/backbone/w") == 1
    assert line(text, "1 ").endswith("verified, 3 arrays") and line(text, "3 ").endswith("verified, 3 arrays")
    assert not look(run, verify=True, step=3)[1]
    assert look(run, verify=True, step=2)[1]


def test_arrays_are_read_a_few_at_a_time(run, monkeypatch):
    from vitjax import loading

    largest = []
    load = loading.load
    monkeypatch.setattr(loading, "GROUP_BYTES", 8)
    monkeypatch.setattr(
        loading, "load", lambda *a: largest.append(sum(map(len, a[1].values()))) or load(*a)
    )
    assert not look(run, verify=True, step=1)[1]
    assert largest == [1, 1, 1]


def test_folders_that_are_no_checkpoints_are_told_apart(run):
    folder = run / "checkpoints"
    (folder / "1" / "_CHECKPOINT_METADATA").unlink()
    (folder / "9").mkdir()
    (folder / "3").rename(folder / "3.damaged")
    (folder / "4.orbax-checkpoint-tmp").mkdir()
    text, damaged = look(run)
    assert damaged
    assert "INCOMPLETE" in line(text, "1 ") and "INCOMPLETE" in line(text, "9 ")
    assert "set aside" in line(text, "3.damaged")
    assert "never finished" in line(text, "4.orbax")
    assert "Arrays of step 2" in text


@pytest.mark.parametrize("moment", ["_look", "_verified"])
def test_a_checkpoint_that_a_live_run_removes_meanwhile_is_no_damage(run, monkeypatch, moment):
    act = getattr(inspect, moment)

    def removed(*arguments):
        found = act(*arguments)
        if found.step == 1:
            shutil.rmtree(run / "checkpoints" / "1")
        return found

    monkeypatch.setattr(inspect, moment, removed)
    text, damaged = look(run, verify=True)
    assert not damaged and "Arrays of step 3" in text


def test_truncated_files_are_damage_for_verify(run):
    file = max((run / "checkpoints" / "3" / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:6000])
    text, damaged = look(run, verify=True)
    assert damaged and "DAMAGED" in line(text, "3 ")


def test_the_command_needs_neither_devices_nor_jax(run):
    code = f"""
import sys
from vitjax import inspect
code = inspect.main(['--workdir={run}'])
assert not {{'jax', 'orbax', 'numpy'}} & set(sys.modules), 'imported'
sys.exit(code)
"""
    before = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step 2, train/loss 0.25" in done.stdout
    assert time.perf_counter() - before < 60


def test_exit_codes_and_mistakes(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert inspect.main([f"--workdir={run}", "--verify"]) == 0
    assert inspect.main([str(run)]) == 0
    for argv in ([], [str(run), f"--workdir={run}"]):
        with pytest.raises(UserError, match="name one directory, as DIR or as --workdir=DIR"):
            inspect.main(argv)
    damage(run, 3)
    assert inspect.main([f"--workdir={run}", "--verify"]) == 1
    with pytest.raises(UserError, match="--step=5: .* holds the steps 1, 2, 3"):
        inspect.main([f"--workdir={run}", "--step=5"])
    with pytest.raises(UserError, match="neither a run nor an export"):
        inspect.main([f"--workdir={tmp_path / 'none'}"])
    with pytest.raises(UserError, match="takes no settings"):
        inspect.main([f"--workdir={run}", "--config.seed=1"])


def test_an_export_is_told_too(tmp_path):
    write_config(tmp_path, step=12)
    file = tmp_path / "model.safetensors"
    save_file({"params/backbone/w": np.ones((4, 3), np.float32)}, file)
    text, damaged = look(tmp_path, verify=True)
    assert not damaged and line(text, "step").endswith("12")
    assert line(text, "all parameters").split()[-1] == "12"
    file.write_bytes(file.read_bytes()[:-4])
    text, damaged = look(tmp_path)
    assert damaged and "should have" in line(text, "weights")
