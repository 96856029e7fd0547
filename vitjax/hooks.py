"""What happens beside the steps: logging, checkpoints, evaluation, pictures, bad records, profiles.

Each function makes a hook for `loop.train`. A hook decides itself when it is due, and the order in which
they are given is the order in which they run.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vitjax import alarms, evaluate, experiment, health, multihost, picture, sharding
from vitjax.checkpoint import Checkpointer
from vitjax.data import pipeline
from vitjax.data.bad_records import BadRecords
from vitjax.experiment import Experiment
from vitjax.loop import IN_FLIGHT, Event, Hook
from vitjax.periods import due
from vitjax.progress import Progress
from vitjax.supervisor import EVALUATING, LOGGING, SAVING, Enter
from vitjax.writers import MetricsWriter

# Whether the state is saved after a step.
Saves = Callable[[Event], bool]

# Entries of `predict` whose result is pictures, to be looked at during training.
PICTURES = ("reconstruction", "sample")
NUM_PICTURES = 8
BAD_RECORDS = "bad_records.jsonl"
# Numbers of steps that wait on the device for the next line of the log.
UNREAD = 1000


def log(writer: MetricsWriter, progress: Progress, every_steps: int) -> Hook:
    """Writes the step's scalars as 'train/...' and shows them, together with speed and time to go.

    'train/skipped' counts the refused updates since the line before, so that none goes unseen. What a step computes
    now and then is shown as it was last.
    """
    unread: list[jax.Array] = []
    skipped = 0.0
    occasional: dict[str, jax.Array] = {}

    def read(number: int) -> float:
        """The sum of the `number` oldest, which are not needed any more."""
        total = float(sum(jax.device_get(unread[:number])))
        del unread[:number]
        return total

    def hook(event: Event) -> None:
        nonlocal skipped
        progress.step(event.step, event.waited_s)
        now_and_then = {name: x for name, x in event.metrics.items() if name.endswith(health.RANKME)}
        if health.is_due(event.step):
            occasional.update(now_and_then)
        unread.append(event.metrics["skipped"])
        if len(unread) > UNREAD:
            # These steps are done: nobody waits for the device.
            skipped += read(UNREAD - IN_FLIGHT)
        if not due(event.step, every_steps, event.last, first=True):
            return
        shown = {name: x for name, x in event.metrics.items() if name not in now_and_then} | occasional
        metrics = {name: float(value) for name, value in jax.device_get(shown).items()}
        metrics["skipped"], skipped = skipped + read(len(unread)), 0.0
        metrics |= progress.report(event.step, metrics)
        writer.write(event.step, {f"train/{name}": value for name, value in metrics.items()})

    return hook


def watch(watcher: alarms.Watch, progress: Progress) -> Hook:
    """Raises alarms, from the scalars of every alarms.EVERY_STEPS-th step, once the device has done it."""
    unseen: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()

    def hook(event: Event) -> None:
        watcher.waited(event.waited_s)
        if due(event.step, alarms.EVERY_STEPS, event.last, first=True):
            scalars = {name: x for name, x in event.metrics.items() if alarms.watched(name)}
            for x in scalars.values():
                x.copy_to_host_async()
            unseen.append((event.step, scalars))
        while unseen and (event.last or event.step - unseen[0][0] >= IN_FLIGHT):
            step, scalars = unseen.popleft()
            values = {name: float(x) for name, x in scalars.items()}
            for text in watcher.look(step, values | {alarms.REFUSED: progress.refused}):
                progress.say(text)
            progress.alarms = tuple(sorted({alarm for alarm, _ in watcher.on}))

    return hook


def save(
    checkpointer: Checkpointer,
    writer: MetricsWriter,
    saves: Saves,
    enter: Enter,
    follow: Callable[[], None],
    left_out: Sequence[int],
) -> Hook:
    """Saves the state in the background, and first what was logged up to it, which then may `follow`."""

    def hook(event: Event) -> None:
        if saves(event):
            enter(SAVING)
            writer.flush()
            follow()
            checkpointer.save(event.step, event.state, left_out)

    return hook


def evaluation(
    built: Experiment,
    evaluations: Mapping[str, evaluate.Evaluation],
    splits: evaluate.Splits,
    mesh: Mesh,
    writer: MetricsWriter,
    progress: Progress,
    enter: Enter,
) -> Hook:
    """Runs the evaluators that are due; at the end of the run all of them, beside their baselines.

    Numbers that are there already, in a run that goes on, are not computed again.
    """
    export = experiment.exporter(built)

    def tell(what: str) -> None:
        # A solver may take longer than config.watchdog_s, and is alive all the same.
        enter(EVALUATING)
        progress.doing(f"evaluating {what}")

    def hook(event: Event) -> None:
        finished = event.step == built.run.total_steps
        names = [name for name, e in evaluations.items() if due(event.step, e.every_steps, finished)]
        known = multihost.from_first([int(writer.has(event.step, f"eval/{name}/n")) for name in names])
        asked = {name: evaluations[name] for name, done in zip(names, known) if not done}
        if not asked:
            return
        try:
            enter(EVALUATING)
            with progress.paused("evaluating"):
                variables = export(event.state)
                metrics = evaluate.evaluate(built, asked, variables, splits, mesh, finished, tell)
        finally:
            enter(LOGGING)
        writer.write(event.step, metrics)
        progress.say(evaluate.table(metrics))
        splits.list_bad(built.path / BAD_RECORDS)

    return hook


def pictures(
    built: Experiment, splits: evaluate.Splits, mesh: Mesh, writer: MetricsWriter, every_steps: int
) -> Hook:
    """Writes what the network sees as a grid of pictures, for objectives that predict pictures."""
    names = [name for name in PICTURES if name in built.objective.predict]
    if not names:
        return lambda event: None
    predict = {name: jax.jit(built.objective.predict[name]) for name in names}
    export = experiment.exporter(built)
    batch = _some_pictures(splits.source(built.config.data.split), built.config.data, mesh)
    key = jax.random.key(built.config.seed)

    def hook(event: Event) -> None:
        if not due(event.step, every_steps, event.last):
            return
        variables = export(event.state)
        for name in names:
            shown = predict[name](variables, batch, key)
            columns = [np.asarray(x)[:NUM_PICTURES] for x in multihost.fetch(shown).values()]
            writer.picture(event.step, name, picture.grid(columns))

    return hook


def bad_records(built: Experiment, source: Any, progress: Progress, every_steps: int, saves: Saves) -> Hook:
    """Lists each record that could not be used once, whichever process met it; in any case before a save.

    It raises a RunError when they are too many.
    """
    data, found = built.config.data, []
    records = BadRecords(built.path / BAD_RECORDS, source, pipeline.reader(data, source))

    def hook(event: Event) -> None:
        found.extend(int(i) for i in event.batch["bad_index"] if i >= 0)
        if saves(event) or due(event.step, every_steps, event.last):
            met = min(event.step * built.run.batch_size, len(source))
            evaluate.list_bad(records, found, met, data.max_bad_fraction)
            found.clear()
            progress.bad_records = records.count

    return hook


def profile(directory: Path, start_step: int, steps: int) -> Hook:
    """Writes a jax.profiler trace of the `steps` steps that follow `start_step`; below 1 means never."""
    running = False

    def hook(event: Event) -> None:
        nonlocal running
        if event.step == start_step and start_step > 0:
            jax.block_until_ready(event.metrics)
            jax.profiler.start_trace(str(directory))
            running = True
        elif running and (event.last or event.step >= start_step + steps):
            jax.block_until_ready(event.metrics)
            jax.profiler.stop_trace()
            running = False

    return hook


def _some_pictures(source: Any, data: Any, mesh: Mesh) -> Mapping[str, jax.Array]:
    """A few pictures of `source`, always the same."""
    size = max(NUM_PICTURES, mesh.size)
    size += -size % mesh.size
    batches = pipeline.eval_batches(
        source,
        batch_size=size,
        rows=sharding.local_rows(mesh, size),
        canvas_px=pipeline.canvas_px(data),
        workers=0,
        limit=size,
        fields=pipeline.fields(data, source),
        form=pipeline.form(data),
    )
    with batches:
        return sharding.put_batch(next(batches), mesh)
