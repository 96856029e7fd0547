"""Train: flags -> config -> objects -> loop.

    python -m vitjax.main --config=configs/quickstart.py --workdir=runs/quickstart
    python -m vitjax.main --config=configs/mae_vitb.py --config.data.path=PICTURES --workdir=runs/mae

Any setting of the config can be given as --config.key=value. The same command again goes on where the run
stopped; Ctrl-C saves first.
"""

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_collections
from jax.sharding import Mesh

from vitjax import checkpoint, cli, devices, experiment, flops, hooks, loop, multihost, sharding, summary
from vitjax.checkpoint import Checkpointer
from vitjax.config import Tracked
from vitjax.data import pipeline, sources
from vitjax.evaluate import Evaluation, Splits, prepare
from vitjax.experiment import Experiment
from vitjax.progress import Progress, start_table
from vitjax.workdir import Workdir
from vitjax.writers import MetricsWriter, read_metrics


def main(argv: Sequence[str]) -> int:
    """Trains what the command line describes; 0, or 128 + the signal that stopped it (Ctrl-C: 130)."""
    options = cli.parser("vitjax.main", __doc__)
    cli.add_workdir(options, "where the run lives; given again, the run goes on")
    cli.add_allow_cpu(options)
    multihost.add_options(options)
    values, flags = cli.parse(options, argv)
    config = cli.load_config(flags)
    devices.keep_freed_memory()
    with multihost.session(values), stop_on_signals() as received:
        devices.check(values.allow_cpu)
        finished = train(config, values.workdir, given=cli.keys(flags), stop=lambda: bool(received))
    if finished:
        return 0
    multihost.say(f"Stopped and saved. To go on: python -m vitjax.main {shlex.join(argv)}")
    # The signal may have come to another process.
    return 128 + received[0] if received else 128 + signal.SIGTERM


def train(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    given: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Whether the run of `config` has all its steps, after training from its newest checkpoint or the start.

    The result is in `workdir`: `vitjax.load(workdir)` opens it.

    Args:
      given: the keys that the user set ('config.a.b'), which must have an effect.
      stop: asked after every step; True saves and returns.

    Raises:
      UserError: a setting or a file does not fit; nothing has been computed then.
    """
    config, home = Tracked(config), Workdir(workdir)
    home.fetch()
    workdir = home.local
    devices.use_compilation_cache()
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.batch_size, mesh, config.accum)
    source = sources.open_source(config.data, config.data.split)
    built = experiment.prepare(config, source, workdir)
    splits = Splits(config, mesh)
    evaluations = prepare(built, splits)
    loader = _train_loader(config, source, mesh)
    # Read now: whatever is wrong with a setting has to show before anything is computed.
    log, saving, profile = (SimpleNamespace(**c) for c in (config.log, config.checkpoint, config.profile))
    abstract = sharding.abstract(experiment.abstract_state(built), mesh)
    checkpointer = Checkpointer(home.path / checkpoint.FOLDER, keep=saving.keep)
    first = checkpointer.latest_step() or 0
    weights = {} if first else experiment.given_weights(built)
    config.refuse_unread(given)
    if first:
        experiment.refuse_changes(built)

    with contextlib.ExitStack() as stack:
        stack.enter_context(sharding.use(mesh))
        stack.callback(home.close)
        stack.callback(checkpointer.close)
        state = checkpointer.restore(abstract) if first else experiment.fresh_state(built, abstract, weights)
        evaluated = _is_evaluated(built, evaluations)
        experiment.write_config(built)
        traced = loop.trace_step(built.objective, built.run, config.seed, mesh, abstract)
        flops_per_step = flops.count_jaxpr(traced.jaxpr)
        multihost.say(start_table(summary.facts(built, source, mesh, state, flops_per_step)))
        step_fn = _compiled(traced)
        writer = stack.enter_context(MetricsWriter(workdir, first_step=first))
        progress = Progress(
            total_steps=built.run.total_steps,
            first_step=first,
            batch_size=built.run.batch_size,
            flops_per_step=flops_per_step,
            peak_flops=flops.peak(mesh.devices.flat),
        )
        stack.enter_context(progress)
        evaluate = hooks.evaluation(built, evaluations, splits, mesh, writer, progress)
        beside = [
            hooks.bad_records(source, workdir, progress, log.every_steps, saving.every_steps),
            hooks.log(writer, progress, log.every_steps),
            hooks.profile(workdir / "profile", profile.start_step, profile.steps),
            hooks.pictures(built, splits, mesh, writer, log.pictures_every_steps),
            hooks.save(checkpointer, writer, saving.every_steps, follow=home.push),
            evaluate,
        ]
        if first >= built.run.total_steps:
            if not evaluated:
                evaluate(loop.Event(first, state, {}, {}, 0.0, last=True))
            progress.say(f"The run has all its {first:,} steps; a larger --config.total_steps goes on.")
            return True
        batches = stack.enter_context(loader(first))
        state = loop.train(
            step_fn,
            state,
            batches,
            first_step=first,
            total_steps=built.run.total_steps,
            mesh=mesh,
            hooks=beside,
            stop=multihost.Agreement(stop, mesh, lag=loop.IN_FLIGHT),
        )
        return int(state.step) == built.run.total_steps


@contextlib.contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM add their number to; a second SIGINT stops at once."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT and received:
            raise KeyboardInterrupt
        received.append(number)
        print("\nStopping after this step; the state is being saved.", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _train_loader(config: Tracked, source: Any, mesh: Mesh) -> Callable[[int], pipeline.Batches]:
    """start_step -> the batches from there on."""
    data, augment = config.data, config.augment
    settings = dict(
        batch_size=config.batch_size,
        rows=sharding.local_rows(mesh, config.batch_size),
        seed=config.seed,
        canvas_px=pipeline.canvas_px(data),
        crop=data.crop,
        size_px=data.size_px,
        crop_area=augment.crop_area,
        crop_aspect=augment.crop_aspect,
        resize=data.resize,
        workers=data.workers,
    )
    return lambda start_step: pipeline.train_batches(source, start_step=start_step, **settings)


def _compiled(traced: Any) -> Callable:
    """The compiled training step; says how long that took, because nothing moves meanwhile."""
    before = time.perf_counter()
    multihost.say("Compiling the training step ...", end="")
    compiled = traced.lower().compile()
    multihost.say(f" {time.perf_counter() - before:.1f} s")
    return compiled


def _is_evaluated(built: Experiment, evaluations: Mapping[str, Evaluation]) -> bool:
    """Whether the final evaluation of a run is in its metrics, which the first process has."""
    rows = read_metrics(built.path)
    return bool(multihost.from_first(bool(rows) and all(f"eval/{name}/n" in rows[-1] for name in evaluations)))


if __name__ == "__main__":
    cli.run(main)
