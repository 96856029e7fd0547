"""Runs of `own_methods.stateful` that are cut in every way, and what they left.

    python own_methods/runs.py WORKDIR STEP [--config.key=value ...]    dies after STEP, as by SIGKILL
"""

import json
import os
import sys
from pathlib import Path
from unittest import mock

from vitjax import cli, loop
from vitjax import main as main_module

CONFIG = Path(__file__).with_name("stateful_config.py")
SEEN = "seen.jsonl"  # the records of every step, beside the run


class Cut(BaseException):
    """What nobody handles."""


def run(workdir, *more, stop_after=None, cut_after=None, cut=None):
    """`main.train` until the end, a polite stop, or a cut; every step's records are noted as it is done."""
    workdir = Path(workdir)
    flags = [f"--config={CONFIG}", "--config.probe.field=label/shape", *more]
    done = []

    def note(event):
        done.append(event.step)
        row = {"step": event.step, "index": event.batch["index"].tolist(), "row": event.batch["row"].tolist()}
        with open(workdir / SEEN, "a") as file:
            file.write(json.dumps(row) + "\n")
        if event.step == cut_after:
            cut()

    def watched(*args, hooks, **kwargs):
        return train(*args, hooks=[*hooks, note], **kwargs)

    train = loop.train
    with mock.patch.object(loop, "train", watched):
        config = cli.load_config(flags)
        # The stop is asked for before the hooks of a step have run.
        stop = lambda: stop_after is not None and _before(done, workdir) + 1 >= stop_after  # noqa: E731
        return main_module.train(config, workdir, given=cli.keys(flags), stop=stop)


def crash():
    """An exception that nobody handles."""
    raise Cut


def die():
    """The end without a word, as by SIGKILL or a power cut."""
    os._exit(137)


def seen(workdir):
    """Step -> (records, rows), where a step that was done twice had the same ones both times."""
    steps = {}
    for line in (Path(workdir) / SEEN).read_text().splitlines():
        row = json.loads(line)
        step = row.pop("step")
        assert steps.setdefault(step, row) == row, f"step {step} had other records the second time"
    return steps


def _before(done, workdir):
    """The last step that was done."""
    if done:
        return done[-1]
    newest = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal()]
    return max(newest, default=0)


if __name__ == "__main__":
    run(sys.argv[1], *sys.argv[3:], cut_after=int(sys.argv[2]), cut=die)
