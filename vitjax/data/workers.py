"""Decoding processes whose death ends the run instead of hanging it.

Grain notices a process that was killed, after a second. It waits for ever for one that left with exit code 0 (a
library that calls exit) or that died in the middle of a message, and its own message names no remedy.
"""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import grain

from vitjax.errors import RunError

CHECK_S = 1.0
# A batch may still come after a death: what is on its way, or grain's own word about it.
GRACE_S = 10.0
CLOSE_S = 3.0

_NAME = "grain-process-prefetch"  # how the names of grain's processes begin
_DIED = "Worker process was terminated unexpectedly"


def running() -> set[BaseProcess]:
    """The decoding processes of all loaders of this program."""
    return {child for child in multiprocessing.active_children() if child.name.startswith(_NAME)}


def set_up(*_: Any) -> None:
    """Set-up of a decoding process: it takes no accelerator's memory, and outlives the trainer by no means."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    # Ctrl-C and a scheduler's SIGTERM reach all processes of a group; the trainer still needs these to save.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """Ends this process with the one that started it, also where that was killed and could not say so."""
    multiprocessing.parent_process().join()
    os._exit(1)


class Watched:
    """What `iterator` gives, made by `count` processes; a RunError if one of them dies.

    Another thread waits for grain, so that this one can look after the processes meanwhile.
    """

    def __init__(
        self, iterator: grain.DatasetIterator, count: int, others: set[BaseProcess], endless: bool
    ):
        """
        Args:
          others: the processes that were running before.
          endless: no process leaves before it is told to, not even well.
        """
        self._iterator, self._count, self._others, self._endless = iterator, count, others, endless
        self._processes: set[BaseProcess] = set()
        self._asked, self._answers = queue.SimpleQueue(), queue.SimpleQueue()
        self._abandoned = self._waiting = False
        threading.Thread(target=self._answer, args=(iterator, self._asked, self._answers), daemon=True).start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._find()
        self._asked.put(True)
        self._waiting = True
        dead_since = None
        while True:
            try:
                batch, error = self._answers.get(timeout=CHECK_S)
                self._waiting = False
                break
            except queue.Empty:
                self._find()
            if dead_since is None and self._dead():
                dead_since = time.monotonic()
            if dead_since is not None and time.monotonic() - dead_since > GRACE_S:
                raise self._failure()
        if isinstance(error, RuntimeError) and _DIED in str(error):
            raise self._failure() from error
        if error is not None:
            raise error
        return batch

    def close(self) -> None:
        """Ends the processes; may be called twice."""
        self._asked.put(False)
        # A wait that was broken off still holds grain's lock.
        if self._waiting or self._dead():
            self._abandon()
        elif not self._abandoned:
            self._iterator.close()

    @staticmethod
    def _answer(iterator: Iterator[Any], asked: queue.SimpleQueue, answers: queue.SimpleQueue) -> None:
        """The thread: one answer, (batch, error), to each question."""
        while asked.get():
            try:
                answers.put((next(iterator), None))
            except BaseException as error:
                answers.put((None, error))

    def _find(self) -> None:
        """Notes the processes, which grain starts in its own time."""
        if len(self._processes) < self._count:
            self._processes |= running() - self._others

    def _dead(self) -> list[BaseProcess]:
        left = [process for process in self._processes if process.exitcode is not None]
        return left if self._endless else [process for process in left if process.exitcode != 0]

    def _failure(self) -> RunError:
        """The error to raise; nothing of grain's runs then."""
        how = next((_said(process.exitcode) for process in self._dead()), "died")
        self._abandon()
        return RunError(
            f"a process that decodes pictures {how}; the same command goes on from the newest checkpoint. If "
            f"memory ran out, use fewer than config.data.workers={self._count}, or 0, which decodes in threads"
        )

    def _abandon(self) -> None:
        """Ends the processes without waiting for what they do.

        Grain's own closing waits for ever for some deaths, so it is left behind after a while.
        """
        if self._abandoned:
            return
        self._abandoned = True
        for process in self._processes:
            process.kill()
        closing = threading.Thread(target=self._iterator.close, daemon=True)
        closing.start()
        closing.join(CLOSE_S)


def _said(exitcode: int) -> str:
    """What happened to a process."""
    if exitcode == -signal.SIGKILL:
        return "was killed (SIGKILL, which is what the system does when memory runs out)"
    if exitcode < 0:
        return f"was ended by {signal.Signals(-exitcode).name}"
    return f"left with exit code {exitcode}"
