"""Signals and silence, in processes of their own."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

from vitjax import supervisor
from vitjax.supervisor import Interrupted, Supervisor

START = """
import signal, sys, time, threading
from vitjax.supervisor import *
settings = dict(command="COMMAND", newest=lambda: "NEWEST", grace_s=30.0, watchdog_s=0.0, preempted_exit_code=143)
def wait(supervisor, seconds=20):
    until = time.monotonic() + seconds
    while time.monotonic() < until and not supervisor.stop():
        time.sleep(0.02)
"""


def run(body: str, *signals: int, after_s: float = 0.0):
    """(exit code, standard error) of a process that gets the signals when it has printed 'ready'."""
    code = START + textwrap.dedent(body)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n", process.communicate()
    for number in signals:
        time.sleep(after_s)
        process.send_signal(number)
    return process.wait(timeout=60), process.stderr.read()


def test_the_run_is_asked_to_stop_and_exits_with_the_code_of_its_signal():
    body = """
        with Supervisor(**settings) as s:
            s.enter(STEPPING)
            print("ready", flush=True)
            wait(s)
        sys.exit(s.exit_code)
    """
    assert run(body, signal.SIGTERM)[0] == 143
    code, shown = run(body, signal.SIGINT)
    assert code == 130 and "not saved yet will be" in shown


def test_while_python_does_not_run_the_process_leaves_when_its_grace_is_over():
    """A lock held for good stands for a collective or a compilation that never returns to Python's handlers."""
    body = """
        import ctypes
        libc = ctypes.CDLL(None)
        with Supervisor(**{**settings, "grace_s": 1.0}) as s:
            s.enter(SAVING)
            print("ready", flush=True)
            while True:
                libc.sleep(20)  # returns on a signal in this thread
    """
    began = time.monotonic()
    code, shown = run(body, signal.SIGTERM)
    assert code == 143 and time.monotonic() - began < 15
    assert "within config.grace_s=1 s (saving)" in shown and "NEWEST\nTo go on: COMMAND" in shown


@pytest.mark.parametrize("phase", ["STARTING", "RESTORING", "COMPILING"])
def test_nothing_is_waited_for_where_nothing_would_be_lost(phase):
    body = f"""
        with Supervisor(**settings) as s:
            s.enter({phase})
            print("ready", flush=True)
            time.sleep(20)
    """
    code, shown = run(body, signal.SIGTERM)
    assert code == 143 and "nothing new to save" in shown and "To go on: COMMAND" in shown


def test_a_second_interrupt_leaves_at_once():
    body = """
        with Supervisor(**settings) as s:
            s.enter(SAVING)
            print("ready", flush=True)
            time.sleep(20); time.sleep(20); time.sleep(20)
    """
    began = time.monotonic()
    code, shown = run(body, signal.SIGINT, signal.SIGINT, after_s=0.5)
    assert code == 130 and time.monotonic() - began < 15 and "without waiting" in shown


def test_waiting_and_evaluating_are_broken_off():
    body = """
        for phase in (WAITING, EVALUATING):
            with Supervisor(**settings) as s:
                try:
                    s.enter(phase)
                    signal.raise_signal(signal.SIGTERM)
                    time.sleep(20)
                except Interrupted:
                    print("ready", flush=True) if phase == EVALUATING else None
                else:
                    sys.exit(1)
        sys.exit(s.exit_code)
    """
    assert run(body)[0] == 143


def test_several_processes_are_not_broken_off_one_by_one():
    body = """
        with Supervisor(**settings, interrupts=False) as s:
            s.enter(EVALUATING)
            signal.raise_signal(signal.SIGTERM)
            wait(s)
            s.enter(WAITING)
        print("ready", flush=True)
        sys.exit(s.exit_code)
    """
    assert run(body)[0] == 143


def test_silence_ends_the_run_with_the_stacks_of_all_threads(tmp_path):
    body = f"""
        from pathlib import Path
        def stuck_in_a_collective():
            time.sleep(30)
        with Supervisor(**{{**settings, "watchdog_s": 1.0}}, stacks=Path({str(tmp_path)!r})) as s:
            threading.Thread(target=stuck_in_a_collective, daemon=True).start()
            for _ in range(20):
                s.enter(STEPPING)
                time.sleep(0.1)
            s.enter(EVALUATING)
            print("ready", flush=True)
            time.sleep(30)
    """
    began = time.monotonic()
    code, shown = run(body)
    assert code == supervisor.STALLED and time.monotonic() - began < 15
    assert "while evaluating" in shown and "stuck_in_a_collective" in shown and "NEWEST" in shown
    (stacks,) = tmp_path.glob("stacks_*.txt")
    assert "stuck_in_a_collective" in stacks.read_text()


def test_handlers_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    made = Supervisor(command="", newest=str, grace_s=1.0, watchdog_s=0.0, preempted_exit_code=143)
    with made:
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert made.exit_code == 0


def test_a_phase_need_not_begin_after_a_signal():
    made = Supervisor(command="", newest=str, grace_s=9.0, watchdog_s=0.0, preempted_exit_code=143)
    with made:
        made.enter(supervisor.STEPPING)
        signal.raise_signal(signal.SIGTERM)
        assert made.stop()
        made.enter(supervisor.SAVING)
        with pytest.raises(Interrupted):
            made.enter(supervisor.EVALUATING)
