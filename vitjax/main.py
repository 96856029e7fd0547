"""Trains what a config describes; the same command again goes on where the run stopped.

    python -m vitjax.main --config=configs/quickstart.py --workdir=runs/quickstart
    python -m vitjax.main --config=configs/mae_vitb.py --config.data.path=PICTURES --workdir=runs/mae
    python -m vitjax.main --config=configs/mae_vitb.py --help

Any setting of the config can be given as --config.key=value, and --help lists them. Ctrl-C and SIGTERM save first.
"""

import contextlib
import functools
import os
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

if __name__ == "__main__":
    # The imports take seconds, and some library's `except:` may swallow a KeyboardInterrupt: the run would go on.
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))

import jax
import ml_collections
from jax.sharding import Mesh

from vitjax import (
    alarms,
    checkpoint,
    cli,
    devices,
    experiment,
    flops,
    hooks,
    lock,
    loop,
    multihost,
    nonfinite,
    provenance,
    retention,
    settings,
    sharding,
    summary,
)
from vitjax.checkpoint import Checkpointer
from vitjax.config import Tracked
from vitjax.data import pipeline, sources
from vitjax.evaluate import Evaluation, Splits, prepare
from vitjax.experiment import Experiment
from vitjax.objective import State
from vitjax.periods import due
from vitjax.progress import Progress, start_table
from vitjax.supervisor import COMPILING, RESTORING, SAVING, Enter, Interrupted, Supervisor
from vitjax.workdir import Workdir
from vitjax.writers import MetricsWriter


class Plan(NamedTuple):
    """A run as it was asked for and checked, before anything is computed."""

    home: Workdir
    built: Experiment
    mesh: Mesh
    source: Any
    splits: Splits
    evaluations: Mapping[str, Evaluation]
    loader: Callable[[int, Sequence[int]], pipeline.Batches]
    log: Any
    saving: Any
    profile: Any
    abstract: State
    checkpointer: Checkpointer
    weights: Mapping[str, Any]
    changed: Mapping[str, str]
    policy: nonfinite.Policy
    limits: Mapping[str, float]


def main(argv: Sequence[str]) -> int:
    """Trains what the command line describes; 0, or the exit code of the signal that stopped it."""
    options = cli.parser("vitjax.main", __doc__)
    cli.add_config(options)
    if cli.asks_for_help(argv):
        options.epilog = settings.epilog(argv)
    cli.add_workdir(options, "where the run lives; given again, the run goes on")
    cli.add_allow_cpu(options)
    multihost.add_options(options)
    options.add_argument(
        "--changed",
        default="",
        metavar="KEYS",
        help="settings that are meant to differ from those of the run so far: config.a.b,config.c",
    )
    values, flags = cli.parse(options, argv)
    config = Tracked(cli.load_config(flags))
    devices.keep_freed_memory()
    command = f"python -m vitjax.main {shlex.join(argv)}"
    with multihost.session(values):
        devices.check(values.allow_cpu)
        home = Workdir(values.workdir)
        supervisor = Supervisor(
            command=command,
            newest=lambda: _newest(home),
            grace_s=config.grace_s,
            watchdog_s=config.watchdog_s,
            preempted_exit_code=config.preempted_exit_code,
            stacks=home.local,
            interrupts=jax.process_count() == 1,
        )
        with supervisor:
            finished = train(
                config,
                values.workdir,
                given=cli.keys(flags),
                changed=[key for key in values.changed.split(",") if key],
                stop=supervisor.stop,
                enter=supervisor.enter,
            )
    if finished:
        run = f"--workdir={shlex.quote(str(home.path))}"
        multihost.say(f"All is in {home.path}. To take the weights away: python -m vitjax.export {run} --out=DIR")
        return 0
    multihost.say(f"Stopped. {_newest(home)}\nTo go on: {command}")
    # Of several processes one got the signal, and all stopped.
    return supervisor.exit_code or config.preempted_exit_code


def train(
    config: ml_collections.ConfigDict | Tracked,
    workdir: str | Path,
    given: Sequence[str] = (),
    changed: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    enter: Enter = lambda phase: None,
) -> bool:
    """Whether the run of `config` has all its steps, after training from its newest checkpoint or the start.

    The result is in `workdir`: `vitjax.load(workdir)` opens it.

    Args:
      given: the keys that the user set ('config.a.b'), which must have an effect.
      changed: the keys that are meant to differ from those the run began with.
      stop: asked after every step; True saves and returns.
      enter: told which phase of `vitjax.supervisor` begins.

    Raises:
      UserError: a setting or a file does not fit; nothing has been computed then.
      RunError: the run cannot go on.
    """
    devices.use_compilation_cache()
    home = Workdir(workdir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(home.hold())
        plan = _plan(config if isinstance(config, Tracked) else Tracked(config), home, given, changed, enter)
        stack.enter_context(lock.hold(plan.built.path))
        stack.enter_context(sharding.use(plan.mesh))
        stack.callback(plan.home.close)
        stack.callback(plan.checkpointer.close)
        state, left_out = _begin(plan, enter)
        experiment.write_config(plan.built)
        provenance.record(plan.built.path, int(state.step), plan.changed)
        enter(COMPILING)
        plan.checkpointer.prepare(plan.abstract)
        traced = loop.trace_step(plan.built.objective, plan.built.run, plan.built.config.seed, plan.mesh, plan.abstract)
        flops_per_step = flops.count_jaxpr(traced.jaxpr)
        facts = summary.facts(plan.built, plan.source, plan.mesh, state, flops_per_step, plan.changed)
        multihost.say(start_table(facts))
        # Not yet: the run may be done. And once, however often it goes back.
        step_fn = functools.cache(lambda: _compiled(traced))
        while True:
            try:
                return _go(plan, step_fn, flops_per_step, state, left_out, stop, enter)
            except nonfinite.Rewind as rewind:
                multihost.say(str(rewind))
                plan.home.push()
                left_out = (*left_out, rewind.batch)
            # Out here, where the exception no longer holds the state that it left. The checkpoint knows less than
            # this list does, and a run that is killed before the next one meets the same batches again.
            state, _ = _begin(plan, enter)


def _plan(config: Tracked, home: Workdir, given: Sequence[str], changed: Sequence[str], enter: Enter) -> Plan:
    """All that the config asks for, opened and checked: what is amiss has to show before anything is computed."""
    home.fetch()
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.batch_size, mesh, config.accum)
    source = sources.open_source(config.data, config.data.split)
    built = experiment.prepare(config, source, home.local)
    splits = Splits(config, mesh)
    saving = SimpleNamespace(**config.checkpoint)
    checkpointer = Checkpointer(
        home.path / checkpoint.FOLDER,
        keep=saving.keep,
        keep_every_steps=saving.keep_every_steps,
        keep_best_mode=saving.keep_best_mode,
        scores=lambda: retention.scores(home.local, saving.keep_best),
        say=multihost.say,
    )
    plan = Plan(
        home=home,
        built=built,
        mesh=mesh,
        source=source,
        splits=splits,
        evaluations=prepare(built, splits),
        loader=experiment.train_loader(config, source, sharding.local_rows(mesh, config.batch_size)),
        log=SimpleNamespace(**config.log),
        saving=saving,
        profile=SimpleNamespace(**config.profile),
        abstract=sharding.abstract(experiment.abstract_state(built), mesh),
        checkpointer=checkpointer,
        weights=_weights(built, checkpointer),
        changed=experiment.changes(built, changed) if checkpointer.latest_step() else {},
        policy=nonfinite.policy(config),
        limits=alarms.limits(config),
    )
    config.refuse_unread(given)
    return plan


def _weights(built: Experiment, checkpointer: Checkpointer) -> Mapping[str, Any]:
    """The arrays that `config.init` brings to a run that begins."""
    if not checkpointer.latest_step():
        return experiment.given_weights(built)
    dict(built.config.init)  # reads the keys: the command that goes on is the one that began, and not refused for them
    return {}


def _begin(plan: Plan, enter: Enter) -> tuple[State, tuple[int, ...]]:
    """The state of the newest checkpoint that can be read and the batches that it leaves out, or that of step 0."""
    # After a rewind a save may be on its way.
    enter(SAVING)
    plan.checkpointer.wait()
    enter(RESTORING)
    restored = plan.checkpointer.restore_newest(plan.abstract)
    if restored is not None:
        return restored.state, restored.left_out
    return experiment.fresh_state(plan.built, plan.abstract, plan.weights), ()


def _go(
    plan: Plan,
    step_fn: Callable[[], Callable],
    flops_per_step: float,
    state: State,
    left_out: Sequence[int],
    stop: Callable[[], bool],
    enter: Enter,
) -> bool:
    """Whether the run has all its steps, after training on from `state`."""
    first, total = int(state.step), plan.built.run.total_steps
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(MetricsWriter(plan.built.path, first_step=first))
        progress = Progress(
            total_steps=total,
            first_step=first,
            batch_size=plan.built.run.batch_size,
            flops_per_step=flops_per_step,
            peak_flops=flops.peak(plan.mesh.devices.flat),
            evaluates=bool(plan.evaluations),
        )
        stack.enter_context(progress)
        evaluate = hooks.evaluation(plan.built, plan.evaluations, plan.splits, plan.mesh, writer, progress, enter)
        try:
            if first:
                # What was due when the run was stopped.
                evaluate(loop.Event(first, state, {}, {}, 0.0, last=False))
            if first >= total:
                progress.say(f"The run has all its {first:,} steps; a larger --config.total_steps goes on.")
                return True
            enter(COMPILING)
            state = loop.train(
                step_fn(),
                state,
                stack.enter_context(plan.loader(first, left_out)),
                first_step=first,
                total_steps=total,
                mesh=plan.mesh,
                hooks=[*_hooks(plan, writer, progress, first, left_out, enter), evaluate],
                stop=multihost.Agreement(stop, plan.mesh, lag=loop.IN_FLIGHT),
                enter=enter,
            )
        except Interrupted:
            # In an evaluation, before which the state was saved.
            return False
        enter(SAVING)
        return int(state.step) == total


def _hooks(
    plan: Plan, writer: MetricsWriter, progress: Progress, first: int, left_out: Sequence[int], enter: Enter
) -> list[loop.Hook]:
    """What happens beside the steps, in this order: what is saved was found finite, and what is evaluated is saved."""
    built, log = plan.built, plan.log
    watcher = alarms.Watch(built.path, plan.limits, first_step=first, writes=jax.process_index() == 0)
    periods = [plan.saving.every_steps, *(e.every_steps for e in plan.evaluations.values())]

    def saves(event: loop.Event) -> bool:
        return any(due(event.step, period, event.last) for period in periods)

    return [
        hooks.bad_records(built, plan.source, progress, log.every_steps, saves),
        hooks.log(writer, progress, log.every_steps),
        hooks.profile(built.path / "profile", plan.profile.start_step, plan.profile.steps),
        hooks.pictures(built, plan.splits, plan.mesh, writer, log.pictures_every_steps),
        nonfinite.hook(
            built.path,
            plan.source,
            progress,
            plan.policy,
            seed=built.config.seed,
            left_out=left_out,
            saves=saves,
            run=plan.home.path,
        ),
        hooks.watch(watcher, progress),
        hooks.save(plan.checkpointer, writer, saves, enter, plan.home.push, left_out),
    ]


def _compiled(traced: Any) -> Callable:
    """The compiled training step; says how long that took, because nothing moves meanwhile."""
    before = time.perf_counter()
    multihost.say("Compiling the training step ...", end="")
    compiled = traced.lower().compile()
    multihost.say(f" {time.perf_counter() - before:.1f} s")
    return compiled


def _newest(home: Workdir) -> str:
    """Which checkpoint is the newest, from the names of folders alone: the process may be hanging in a reader."""
    folder = home.path / checkpoint.FOLDER
    if home.is_remote:
        return f"The checkpoints are in {folder}."  # a network may be what the process hangs in
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    return f"The newest checkpoint is {folder / str(max(steps))}." if steps else "There is no checkpoint yet."


if __name__ == "__main__":
    cli.run(main)
