"""`vitjax.main`, with a hook that notes which record stands in which row, and that sends signals when told to.

python tests/watched_main.py --notes=DIR [--signal=PROCESS:STEP:NUMBER] <arguments of vitjax.main>
"""

import argparse
import json
import os
import sys
from pathlib import Path

import jax

from vitjax import cli, loop
from vitjax import main as main_module


def watch(notes: Path, at: tuple[int, int, int] | None = None):
    """A `loop.train` that notes every step in `notes`, one file a process."""
    train = loop.train
    notes.mkdir(parents=True, exist_ok=True)

    def hook(event: loop.Event) -> None:
        batch = {name: event.batch[name].tolist() for name in ("row", "index", "bad_index")}
        with open(notes / f"{jax.process_index()}.jsonl", "a") as file:
            file.write(json.dumps({"step": event.step, "last": event.last, **batch}) + "\n")
        if at and at[:2] == (jax.process_index(), event.step):
            os.kill(os.getpid(), at[2])

    return lambda *args, hooks, **more: train(*args, hooks=[*hooks, hook], **more)


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--notes", type=Path)
    options.add_argument("--signal")
    own, sys.argv[1:] = options.parse_known_args()
    loop.train = watch(own.notes, own.signal and tuple(map(int, own.signal.split(":"))))
    cli.run(main_module.main)
