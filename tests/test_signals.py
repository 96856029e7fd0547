"""Signals to whole runs: each phase is left with the state saved, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vitjax import checkpoint, cli

TESTS = Path(__file__).parent
CONFIG = TESTS.parent / "configs" / "quickstart.py"
STEPS = 8


def start(phase: str, workdir: Path) -> subprocess.Popen:
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    arguments = [f"--config={CONFIG}:tiny", f"--workdir={workdir}", f"--config.total_steps={STEPS}"]
    arguments += ["--config.evals.knn.every_steps=4", "--config.checkpoint.every_steps=3", "--config.log.every_steps=1"]
    command = [sys.executable, str(TESTS / "slow_run.py"), phase, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def signalled(phase: str, workdir: Path, number: int) -> tuple[int, str, float]:
    """(exit code, what was shown, seconds from the signal to the end)."""
    process = start(phase, workdir)
    shown = ""
    while "dwelling" not in shown:
        line = process.stdout.readline()
        assert line, f"ended before the phase: {shown}"
        shown += line
    time.sleep(0.2)
    process.send_signal(number)
    began = time.monotonic()
    rest, _ = process.communicate(timeout=60)
    return process.returncode, shown + rest, time.monotonic() - began


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    shown, _ = start("none", workdir).communicate(timeout=120)
    return checkpoint.read_variables(workdir, checkpoint.ITEMS), shown


@pytest.mark.parametrize(
    "phase, number, saved",
    [
        ("compiling", signal.SIGTERM, {None}),
        ("waiting", signal.SIGINT, {2}),
        ("reading", signal.SIGTERM, {1, 2, 3}),
        ("stepping", signal.SIGTERM, {2}),
        ("logging", signal.SIGTERM, {5, 6}),
        ("saving", signal.SIGTERM, {4}),
        ("evaluating", signal.SIGTERM, {4}),
    ],
)
def test_a_signal_in_any_phase_loses_nothing(phase, number, saved, tmp_path, unbroken):
    code, shown, seconds = signalled(phase, tmp_path, number)
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], shown
    # A thread that hangs in a reader is waited for, but not for ever.
    assert seconds < (15 if phase != "reading" else 15 + cli.LEAVE_S), shown
    assert checkpoint.latest_step(tmp_path / "checkpoints") in saved, shown
    assert f"To go on: python -m vitjax.main --config={CONFIG}:tiny --workdir={tmp_path}" in shown
    shown, _ = start("none", tmp_path).communicate(timeout=120)
    weights = checkpoint.read_variables(tmp_path, checkpoint.ITEMS)
    for path, x in unbroken[0].items():
        np.testing.assert_array_equal(weights[path], x, err_msg=shown)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if "eval/knn/n" in row] == [4, 8]


def test_a_signal_when_all_is_done_changes_nothing(tmp_path):
    code, shown, _ = signalled("closing", tmp_path, signal.SIGTERM)
    assert code == 0 and "Traceback" not in shown, shown
    assert checkpoint.latest_step(tmp_path / "checkpoints") == STEPS


def test_an_import_that_swallows_ctrl_c_does_not_keep_the_run_going(tmp_path):
    """As some library's bare except does, when the signal comes in the seconds before the program's own first line."""
    (tmp_path / "jax.py").write_text(
        "import time\n"
        "print('importing', flush=True)\n"
        "try:\n"
        "    time.sleep(60)\n"
        "except BaseException:\n"
        "    raise SystemExit(0)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(TESTS.parent)])}
    command = [sys.executable, "-m", "vitjax.main", f"--config={CONFIG}:tiny", f"--workdir={tmp_path}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=tmp_path)
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
