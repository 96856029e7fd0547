"""A tiny run that dwells in one phase, as a program: slow_run.py PHASE ARGUMENTS-OF-MAIN.

It prints 'dwelling' there, so that a test knows when to send a signal.
"""

import ctypes
import sys
import time

from vitjax import cli, evaluate, hooks, loop, main
from vitjax.checkpoint import Checkpointer
from vitjax.data import batches
from vitjax.data.pipeline import Batches

DWELL_S = 30


def dwelling(function, at=1, seconds=DWELL_S, sleep=time.sleep):
    """`function`, which takes long at its call number `at`."""
    calls = iter(range(1, sys.maxsize))

    def slow(*args, **kwargs):
        if next(calls) == at:
            print("dwelling", flush=True)
            sleep(seconds)
        return function(*args, **kwargs)

    return slow


def dwell(phase: str) -> None:
    if phase == "compiling":
        # In C, as the compiler: Python's handlers do not run meanwhile.
        main._compiled = dwelling(main._compiled, sleep=ctypes.CDLL(None).sleep)
    elif phase == "waiting":  # the first batch and the first call are those of the pictures
        Batches.__next__ = dwelling(Batches.__next__, at=4)
    elif phase == "evaluating":
        evaluate.evaluate = dwelling(evaluate.evaluate)
    elif phase == "logging":
        hooks.log = lambda *made, log=hooks.log: dwelling(log(*made), at=5, seconds=2)
    elif phase == "closing":
        Checkpointer.close = dwelling(Checkpointer.close, seconds=2)
    elif phase == "reading":  # for ever, in a thread of the loader; the pictures for the grid are read before
        batches.TrainDataset._batch = dwelling(batches.TrainDataset._batch, at=4, seconds=3600)
    elif phase == "saving":
        Checkpointer.save = dwelling(Checkpointer.save, seconds=2)
    elif phase == "stepping":
        loop.sharding.put_batch = dwelling(loop.sharding.put_batch, at=3, seconds=2)


if __name__ == "__main__":
    phase = sys.argv.pop(1)
    dwell(phase)
    cli.run(main.main)
