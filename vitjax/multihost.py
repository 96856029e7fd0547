"""Several processes of one run: how they find each other, agree on things, and end together.

jax has a service in process 0 that all processes send heartbeats to. When one stops sending, jax ends all the
others with abort(), from a thread that no exception reaches. What can be done there is to say what it means,
and that is done here.
"""

import argparse
import atexit
import collections
import contextlib
import ctypes
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vitjax.errors import RunError, UserError

EXPLICIT = ("coordinator_address", "num_processes", "process_id")
# A process that died is missed after this long: more than a pause of the network, and less than a minute.
HEARTBEAT_TIMEOUT_S = 50
# Processes leave together; one that still waits after this long is alone.
SHUTDOWN_TIMEOUT_S = 60
# A process that failed leaves even if something of it hangs; before, it lets the others tell the same error.
LEAVE_S, LAST_WORDS_S = 20.0, 2.0
LOST = 75  # exit code, EX_TEMPFAIL of sysexits.h: the same command may well succeed
# What Gloo, NCCL and jax's service say when the other end of a connection is gone.
_OF_A_LOST_PROCESS = re.compile(
    r"closed by peer|reset by peer|socket closed|gloo .*fail|nccl .*error|heartbeat|coordination service",
    re.IGNORECASE,
)
_on_abort: Any = None  # the callback that C holds must stay alive


def add_options(options: argparse.ArgumentParser) -> None:
    """The options of commands that can run as several processes."""
    group = options.add_argument_group("several processes of one run (start the same command for each)")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="found by the environment: Slurm, Open MPI, a TPU pod, or GKE",
    )
    group.add_argument("--coordinator_address", metavar="HOST:PORT", help="elsewhere: process 0 and a free port")
    group.add_argument("--num_processes", type=int, metavar="N", help="of all hosts together")
    group.add_argument("--process_id", type=int, metavar="I", help="of this process, 0 to N-1")
    group.add_argument(
        "--initialization_timeout_s",
        type=int,
        default=300,
        metavar="S",
        help="how long to wait for the other processes (default: %(default)s)",
    )
    group.add_argument(
        "--heartbeat_timeout_s",
        type=int,
        default=HEARTBEAT_TIMEOUT_S,
        metavar="S",
        help="after how long of silence a process is taken for dead (default: %(default)s)",
    )


class ProcessLost(RunError):
    """Another process of the run is gone."""

    exit_code = LOST


@contextlib.contextmanager
def session(values: argparse.Namespace) -> Iterator[None]:
    """Inside, this process belongs to the run that the options name; to be entered before jax has devices.

    At the end it waits for the others, however long they still write. After an error it does not: it
    leaves, and the others notice.

    Raises:
      UserError: the options do not fit, or the other processes cannot be found.
      ProcessLost: another process was lost.
    """
    initialize(values)
    try:
        yield
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("end of the run")
    except BaseException as error:
        if jax.distributed.is_initialized():
            lost = _is_of_a_lost_process(error)
            _leave_soon(LOST if lost else _exit_code(error))
            if lost:
                raise ProcessLost(f"{_lost_message()} ({str(error).splitlines()[0]})") from error
        raise


def initialize(values: argparse.Namespace) -> None:
    """Joins the run's other processes, if the options say that there are any.

    Raises:
      UserError: the options do not fit, or no cluster was found.
    """
    explicit = _explicit(values)
    if not values.distributed and not explicit:
        return
    if jax.distributed.is_initialized():
        raise RuntimeError("several processes: initialize() was called twice")
    wait_s = values.initialization_timeout_s
    where = values.coordinator_address or "the coordinator (process 0)"
    _say_on_abort(
        f"this process could not join {where} within --initialization_timeout_s={wait_s}: jax's log above says "
        "why. See to it that all processes were started, each once and all with the same number, that process 0 "
        "runs on the host of the address, and that no firewall closes its port"
    )
    try:
        jax.distributed.initialize(
            **explicit,
            # Where all is said, Slurm's environment must not choose this process's devices.
            cluster_detection_method="deactivate" if explicit else None,
            initialization_timeout=wait_s,
            heartbeat_timeout_seconds=values.heartbeat_timeout_s,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT_S,
        )
    except Exception as error:
        raise UserError(_not_found(explicit, error)) from error
    _say_on_abort(_lost_message())


class Agreement:
    """`stop`, made the same on all processes: they must leave the loop after the same step.

    Each call asks all processes on the device, behind the work that is on its way there, and returns what
    was asked `lag` calls before. That answer is there already, so nothing waits for it. With one process it
    is `stop` itself, without lag.
    """

    def __init__(self, stop: Callable[[], bool], mesh: Mesh, lag: int):
        """
        Args:
          mesh: of the training step; all processes must have devices in it.
          lag: how many steps may be on their way to the device (`loop.IN_FLIGHT`).
        """
        self._stop, self._lag = stop, lag
        self._answers: collections.deque[jax.Array] = collections.deque()
        self._alone = jax.process_count() == 1
        if not self._alone:
            split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((mesh.axis_names,), ()))
            self._flags = tuple(_filled(asked, mesh.size, split) for asked in (False, True))
            self._any = jax.jit(jnp.any, out_shardings=whole).lower(self._flags[0]).compile()

    def __call__(self) -> bool:
        """Whether to stop; to be called after every step, on every process."""
        if self._alone:
            return self._stop()
        self._answers.append(self._any(self._flags[bool(self._stop())]))
        return len(self._answers) > self._lag and bool(self._answers.popleft())


def fetch(tree: Any) -> Any:
    """The arrays of `tree` as a whole, on the host of every process; all processes must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def gather(x: np.ndarray) -> np.ndarray:
    """`x` [n, ...] of every process, stacked: [processes, n, ...]; all processes must call it with one shape.

    Numbers of 64 bits stay whole, of which jax would keep 32.
    """
    if jax.process_count() == 1:
        return x[None]
    wide = x.dtype.itemsize == 8
    gathered = multihost_utils.process_allgather(np.ascontiguousarray(x).view(np.int32) if wide else x)
    return np.ascontiguousarray(gathered).view(x.dtype) if wide else gathered


def from_all(numbers: Sequence[int]) -> list[int]:
    """The numbers, none below 0, that all processes hold, on each of them; all processes must call it."""
    if jax.process_count() == 1:
        return list(numbers)
    longest = int(gather(np.asarray([len(numbers)])).max())
    message = np.full(longest, -1, np.int64)
    message[: len(numbers)] = numbers
    return [int(i) for i in gather(message).ravel() if i >= 0] if longest else []


def from_first(numbers: Sequence[int]) -> list[int]:
    """Process 0's numbers, none below 0, on each of them: for what all must see alike, such as the checkpoints."""
    return from_all([] if jax.process_index() else numbers)


def say(text: str, end: str = "\n") -> None:
    """Prints on the first process."""
    if jax.process_index() == 0:
        print(text, end=end, flush=True)


def _explicit(values: argparse.Namespace) -> dict[str, Any]:
    """The arguments that name this process, or none."""
    given = {name: getattr(values, name) for name in EXPLICIT if getattr(values, name) is not None}
    if not given:
        return {}
    lacking = ", ".join(f"--{name}" for name in EXPLICIT if name not in given)
    if lacking:
        there = " ".join(f"--{name}={value}" for name, value in given.items())
        raise UserError(f"{there}: {lacking} must be given too; or none of them, and --distributed on a cluster")
    address, count, number = (given[name] for name in EXPLICIT)
    if values.distributed:
        raise UserError("--distributed finds the other processes itself: leave out --coordinator_address")
    if not re.fullmatch(r".+:\d+", address):
        raise UserError(f"--coordinator_address={address} must be HOST:PORT, such as node0:6789")
    if not 0 <= number < count:
        raise UserError(f"--process_id={number} must be 0 to {count - 1} with --num_processes={count}")
    return given


def _not_found(explicit: dict[str, Any], error: Exception) -> str:
    cause = str(error).strip().splitlines()[0]
    if explicit:
        return f"--coordinator_address={explicit['coordinator_address']}: the processes did not meet: {cause}"
    return (
        f"--distributed: no cluster was found in the environment ({cause}); there must be Slurm (srun), Open MPI "
        "(mpirun), a TPU pod or GKE (pip install 'jax[k8s]'). Elsewhere give each process "
        "--coordinator_address=HOST:PORT --num_processes=N --process_id=I"
    )


def _lost_message() -> str:
    return (
        "another process of this run was lost (killed, out of memory, or its host or network is down; its own "
        "log says more), so this one ends too. The same command, on every host, goes on from the newest checkpoint"
    )


def _is_of_a_lost_process(error: BaseException) -> bool:
    """Whether a computation failed because another process is gone; jax raises a ValueError where it dispatches."""
    kinds = (jax.errors.JaxRuntimeError, ValueError)
    return isinstance(error, kinds) and not isinstance(error, UserError) and bool(_OF_A_LOST_PROCESS.search(str(error)))


def _say_on_abort(message: str, code: int = LOST) -> None:
    """From now on abort() prints `message` and exits with `code`, in place of a core dump.

    Python's own signal handlers run in the main thread, which abort() never goes back to. A handler of C
    runs in the thread that aborts, and one that ctypes made can run Python there.
    """
    global _on_abort

    def leave(number: int) -> None:
        try:
            if message:
                os.write(sys.__stderr__.fileno(), f"\nerror: {message}\n".encode())
            for child in multiprocessing.active_children():
                child.kill()
        finally:
            os._exit(code)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
    register = ctypes.CDLL(None).signal
    register.argtypes, register.restype = (ctypes.c_int, handler), ctypes.c_void_p
    callback = handler(leave)
    register(signal.SIGABRT, callback)
    _on_abort = callback


def _exit_code(error: BaseException) -> int:
    """The code that the process ends with after `error`."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, RunError):
        return error.exit_code
    return 2 if isinstance(error, UserError) else 1


def _leave_soon(code: int) -> None:
    """Ends this process when its main thread is done, or after LEAVE_S, without waiting for the others.

    jax's own end waits for all processes, and these may wait for this one.
    """
    _say_on_abort("", code)

    def leave() -> None:
        time.sleep(LAST_WORDS_S)  # the others die with process 0
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)  # runs before jax's, which was registered earlier
    timer = threading.Timer(LEAVE_S, leave)
    timer.daemon = True
    timer.start()


def _filled(value: bool, size: int, sharding: NamedSharding) -> jax.Array:
    """An array of `size` times `value`, split over the devices."""
    return jax.make_array_from_callback((size,), sharding, lambda index: np.full(size, value)[index])
