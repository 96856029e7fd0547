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

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from vitjax import checkpoint, cli, devices, experiment, flops, hooks, loop, nonfinite, sharding, summary
from vitjax.checkpoint import Checkpointer
from vitjax.config import Tracked
from vitjax.data import sources
from vitjax.evaluate import Evaluation, Splits, prepare
from vitjax.experiment import Experiment
from vitjax.progress import Progress, start_table
from vitjax.writers import MetricsWriter, read_metrics


def main(argv: Sequence[str]) -> int:
    """Trains what the command line describes; 0, or 128 + the signal that stopped it (Ctrl-C: 130)."""
    options = cli.parser("vitjax.main", __doc__)
    cli.add_workdir(options, "where the run lives; given again, the run goes on")
    cli.add_allow_cpu(options)
    options.add_argument(
        "--distributed", action="store_true", help="one of several processes (pods, clusters) of one run"
    )
    values, flags = cli.parse(options, argv)
    config = cli.load_config(flags)
    devices.keep_freed_memory()
    if values.distributed:
        jax.distributed.initialize()
    devices.check(values.allow_cpu)
    with stop_on_signals() as received:
        finished = train(config, values.workdir, given=cli.keys(flags), stop=lambda: bool(received))
    if finished:
        return 0
    _say(f"Stopped and saved. To go on: python -m vitjax.main {shlex.join(argv)}")
    return 128 + received[0]


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
    config, workdir = Tracked(config), Path(workdir)
    devices.use_compilation_cache()
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.batch_size, mesh, config.accum)
    source = sources.open_source(config.data, config.data.split)
    built = experiment.prepare(config, source, workdir)
    splits = Splits(config, mesh)
    evaluations = prepare(built, splits)
    loader = experiment.train_loader(config, source, mesh)
    # Read now: whatever is wrong with a setting has to show before anything is computed.
    log, saving, profile = (SimpleNamespace(**c) for c in (config.log, config.checkpoint, config.profile))
    abstract = sharding.abstract(experiment.abstract_state(built), mesh)
    checkpointer = Checkpointer(workdir / checkpoint.FOLDER, keep=saving.keep)
    first = checkpointer.latest_step() or 0
    weights = {} if first else experiment.given_weights(built)
    policy = nonfinite.policy(config)
    config.refuse_unread(given)
    left_out = nonfinite.read_left_out(workdir)
    if first:
        experiment.refuse_changes(built)

    with contextlib.ExitStack() as stack:
        stack.enter_context(sharding.use(mesh))
        stack.callback(checkpointer.close)
        state = checkpointer.restore(abstract) if first else experiment.fresh_state(built, abstract, weights)
        evaluated = _is_evaluated(built, evaluations)
        experiment.write_config(built)
        traced = loop.trace_step(built.objective, built.run, config.seed, mesh, abstract)
        flops_per_step = flops.count_jaxpr(traced.jaxpr)
        _say(start_table(summary.facts(built, source, mesh, state, flops_per_step)))
        step_fn = _compiled(traced)

        def go_on(first: int, state: Any, left_out: tuple[int, ...]) -> bool:
            with contextlib.ExitStack() as inside:
                writer = inside.enter_context(MetricsWriter(workdir, first_step=first))
                progress = Progress(
                    total_steps=built.run.total_steps,
                    first_step=first,
                    batch_size=built.run.batch_size,
                    flops_per_step=flops_per_step,
                    peak_flops=flops.peak(mesh.devices.flat),
                )
                inside.enter_context(progress)
                evaluate = hooks.evaluation(built, evaluations, splits, mesh, writer, progress)
                beside = [
                    hooks.bad_records(source, workdir, progress, log.every_steps, saving.every_steps),
                    hooks.log(writer, progress, log.every_steps),
                    hooks.profile(workdir / "profile", profile.start_step, profile.steps),
                    hooks.pictures(built, splits, mesh, writer, log.pictures_every_steps),
                    nonfinite.hook(
                        workdir,
                        source,
                        progress,
                        policy,
                        seed=config.seed,
                        left_out=left_out,
                        save_every_steps=saving.every_steps,
                    ),
                    hooks.save(checkpointer, writer, saving.every_steps),
                    evaluate,
                ]
                if first >= built.run.total_steps:
                    if not evaluated:
                        evaluate(loop.Event(first, state, {}, {}, 0.0, last=True))
                    progress.say(f"The run has all its {first:,} steps; a larger --config.total_steps goes on.")
                    return True
                batches = inside.enter_context(loader(first, left_out))
                state = loop.train(
                    step_fn,
                    state,
                    batches,
                    first_step=first,
                    total_steps=built.run.total_steps,
                    mesh=mesh,
                    hooks=beside,
                    stop=_agreed(stop),
                )
                return int(state.step) == built.run.total_steps

        while True:
            try:
                return go_on(first, state, left_out)
            except nonfinite.Rewind as rewind:
                _say(str(rewind))
                left_out = (*left_out, rewind.batch)
            # Out here, where the exception no longer holds the state that it left. The newest checkpoint may
            # still be on its way to the disk.
            checkpointer.wait()
            first = checkpointer.latest_step() or 0
            state = checkpointer.restore(abstract) if first else experiment.fresh_state(built, abstract, weights)


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


def _compiled(traced: Any) -> Callable:
    """The compiled training step; says how long that took, because nothing moves meanwhile."""
    before = time.perf_counter()
    _say("Compiling the training step ...", end="")
    compiled = traced.lower().compile()
    _say(f" {time.perf_counter() - before:.1f} s")
    return compiled


def _agreed(stop: Callable[[], bool]) -> Callable[[], bool]:
    """`stop`, made the same on all processes: they must leave the loop after the same step."""
    if jax.process_count() == 1:
        return stop
    return lambda: bool(multihost_utils.process_allgather(np.asarray(stop())).any())


def _is_evaluated(built: Experiment, evaluations: Mapping[str, Evaluation]) -> bool:
    """Whether the final evaluation of a run is in its metrics; every process reads the same file."""
    rows = read_metrics(built.path)
    return bool(rows) and all(f"eval/{name}/n" in rows[-1] for name in evaluations)


def _say(text: str, end: str = "\n") -> None:
    """Prints on the first process."""
    if jax.process_index() == 0:
        print(text, end=end, flush=True)


if __name__ == "__main__":
    cli.run(main)
