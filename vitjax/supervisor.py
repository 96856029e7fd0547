"""What watches over a run from a thread of its own: signals, and silence.

Python's signal handlers run between two bytecodes of the main thread, and so not while XLA compiles or a
collective hangs. Here the handler's C part writes the signal's number to a pipe at once, and a thread reads
it, whatever the main thread is doing. The same thread notices when no step has been made for long.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitjax.errors import UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STALLED = 124  # exit code, as of timeout(1)
STACKS = "stacks_{pid}.txt"

# Phases of a run, as `Supervisor.enter` gets them.
STARTING = "starting"
RESTORING = "restoring a checkpoint"
COMPILING = "compiling"
WAITING = "waiting for data"
STEPPING = "making a step"
LOGGING = "logging"
EVALUATING = "evaluating"
SAVING = "saving"
# The newest checkpoint holds all there is: there is nothing to wait for.
NOTHING_NEW = (STARTING, RESTORING, COMPILING)
# Long, and without effect on the state: they are broken off.
INTERRUPTIBLE = (WAITING, EVALUATING)

POLL_S = 0.5
# For the last words: a directory may hang, and so may a terminal.
LAST_WORDS_S = 5.0

Enter = Callable[[str], None]


class Interrupted(BaseException):
    """A signal came in a phase that is broken off; the state of the last step is whole."""


class Supervisor:
    """A context in which SIGINT and SIGTERM ask the run to save and stop, and silence ends it.

    After a signal the run has `grace_s` to save; then, or at a second Ctrl-C, the process names the newest
    checkpoint and leaves. It leaves at once where nothing would be lost, such as while compiling.
    """

    def __init__(
        self,
        *,
        command: str,
        newest: Callable[[], str],
        grace_s: float,
        watchdog_s: float,
        preempted_exit_code: int,
        stacks: Path | None = None,
        interrupts: bool = True,
        leave: Callable[[int], Any] = os._exit,
    ):
        """
        Args:
          command: what goes on with the run, to be shown.
          newest: says which checkpoint is the newest.
          watchdog_s: the longest silence; 0 never ends a run.
          preempted_exit_code: after SIGTERM. Not 0: a scheduler must not take the job for done.
          stacks: a folder for the stacks of all threads at a stall; they are also printed.
          interrupts: phases may be broken off. Not where other processes would wait in a collective.

        Raises:
          UserError: a time is negative, or the exit code would say that the run is done or that it failed.
        """
        for name, value in dict(grace_s=grace_s, watchdog_s=watchdog_s).items():
            if value < 0:
                raise UserError(f"config.{name}={value} must be at least 0")
        if not 2 < preempted_exit_code < 256:
            raise UserError(f"config.preempted_exit_code={preempted_exit_code} must lie in 3..255; 143 is usual")
        self.phase = STARTING
        self.signal: int | None = None
        self._command, self._newest = command, newest
        self._grace_s, self._watchdog_s = grace_s, watchdog_s
        self._exit_codes = {signal.SIGINT: 128 + signal.SIGINT, signal.SIGTERM: preempted_exit_code}
        self._stacks, self._interrupts, self._leave = stacks, interrupts, leave
        self._interrupted = False
        self._beat = time.monotonic()
        self._deadline: float | None = None
        self._over = threading.Event()

    @property
    def exit_code(self) -> int:
        """The exit code of the first signal; 0 where none came."""
        return self._exit_codes[self.signal] if self.signal else 0

    def stop(self) -> bool:
        """Whether a signal asked the run to stop."""
        return self.signal is not None

    def enter(self, phase: str) -> None:
        """Notes what the run does from now on, and that it is alive.

        Raises:
          Interrupted: a signal came, and this phase need not begin.
        """
        self.phase, self._beat = phase, time.monotonic()
        if self.stop() and self._is_interruptible():
            raise Interrupted

    def __enter__(self) -> "Supervisor":
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        self._handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="vitjax-supervisor", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.write(self._pipe[1], b"\0")
        self._thread.join()
        for end in self._pipe:
            os.close(end)

    def _handle(self, number: int, frame: Any) -> None:
        """In the main thread, as soon as that runs Python again."""
        self.signal = self.signal or number
        # Only once: the clean-up that follows must not be broken off.
        if self._is_interruptible() and not self._interrupted:
            self._interrupted = True
            raise Interrupted

    def _is_interruptible(self) -> bool:
        return self._interrupts and self.phase in INTERRUPTIBLE

    def _watch(self) -> None:
        while not self._over.is_set():
            select.select([self._pipe[0]], [], [], POLL_S)
            for number in self._read():
                self._on_signal(number)
            now = time.monotonic()
            if self._deadline is not None and now > self._deadline:
                self._say(f"The state was not saved within config.grace_s={self._grace_s:g} s ({self.phase}).")
                self._go(self.exit_code)
            if self._deadline is None and 0 < self._watchdog_s < now - self._beat:
                self._stall(now - self._beat)

    def _read(self) -> list[int]:
        """The signals that came."""
        try:
            return [number for number in os.read(self._pipe[0], 64) if number in SIGNALS]
        except BlockingIOError:
            return []

    def _on_signal(self, number: int) -> None:
        again, self.signal = self._deadline is not None, self.signal or number
        if again and number == signal.SIGINT:
            self._say("Stopped without waiting for the state to be saved.")
            self._go(self.exit_code)
        if again:
            return
        self._deadline = time.monotonic() + self._grace_s
        if self.phase in NOTHING_NEW:
            self._say(f"Stopped while {self.phase}: there is nothing new to save.")
            self._go(self.exit_code)
        self._say(f"Stopping ({self.phase}); what is not saved yet will be. Ctrl-C again leaves at once.")

    def _stall(self, silent_s: float) -> None:
        """Ends a run that hangs: a job that fails is started again, one that hangs is paid for."""
        self._say(
            f"No step for {silent_s:.0f} s (config.watchdog_s={self._watchdog_s:g}) while {self.phase}: the run "
            "hangs and ends now. The stacks of all its threads:"
        )
        self._leave_at_last(STALLED)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        with contextlib.suppress(OSError, TypeError):
            with open(self._stacks / STACKS.format(pid=os.getpid()), "w") as file:
                faulthandler.dump_traceback(file=file, all_threads=True)
        self._go(STALLED)

    def _go(self, code: int) -> None:
        """Leaves from this thread: the main thread may never come back to Python."""
        self._leave_at_last(code)
        try:
            self._say(f"{self._newest()}\nTo go on: {self._command}")
            for child in multiprocessing.active_children():
                child.kill()
        finally:
            self._leave(code)

    def _leave_at_last(self, code: int) -> None:
        """Leaves soon, even if what is still to be said cannot be."""
        timer = threading.Timer(LAST_WORDS_S, self._leave, (code,))
        timer.daemon = True
        timer.start()

    def _say(self, text: str) -> None:
        # One write, to the file itself: the main thread may hold the lock of a buffer for good.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.write(sys.stderr.fileno(), f"\n{text}\n".encode())
