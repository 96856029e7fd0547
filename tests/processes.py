"""Runs a program as several real processes on this machine, as a cluster runs it on several."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

ROOT = Path(__file__).parents[1]


class Ended(NamedTuple):
    """How a process ended: its exit code, what it said, and when, in seconds since the start of all."""

    code: int
    output: str
    after_s: float


def run(
    program: str,
    arguments: Sequence[str],
    *,
    of_each: Sequence[Sequence[str]] = ((), ()),
    devices: int = 2,
    limit_s: float = 240,
) -> list[Ended]:
    """What became of a process of `python <program>` for each member of `of_each`, its own arguments.

    They find each other by explicit flags. Past `limit_s` all are killed, and the test fails with what they said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address, count = f"127.0.0.1:{probe.getsockname()[1]}", len(of_each)
    meeting = [f"--coordinator_address={address}", f"--num_processes={count}"]
    began = time.monotonic()
    given = [[*arguments, *own, *meeting, f"--process_id={i}"] for i, own in enumerate(of_each)]
    started = [start(program, own, devices) for own in given]
    ended: dict[int, Ended] = {}
    try:
        while len(ended) < count and time.monotonic() < began + limit_s:
            for i, process in enumerate(started):
                if i not in ended and process.poll() is not None:
                    ended[i] = Ended(process.returncode, "", time.monotonic() - began)
            time.sleep(0.05)
    finally:
        for process in started:
            process.kill()
    said = [process.communicate()[0] for process in started]
    assert len(ended) == count, f"still alive after {limit_s} s:\n" + "\n----\n".join(said)
    return [ended[i]._replace(output=said[i]) for i in range(count)]


def start(program: str, arguments: Sequence[str], devices: int = 2) -> subprocess.Popen:
    """One process of ours, which compiles what no test compiled before."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    return subprocess.Popen(
        [sys.executable, *program.split(), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment,
    )
