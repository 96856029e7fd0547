"""Train: flags -> config -> objects -> loop.

    python -m vitjax.main --config=configs/quickstart.py --workdir=runs/quickstart
    python -m vitjax.main --config=configs/mae_vitb.py --config.data.path=PICTURES --workdir=runs/mae

Any setting of the config can be given as --config.key=value. The same command again goes on where the run
stopped; Ctrl-C saves first.
"""

import contextlib
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from vitjax import cli, devices, experiment, flops, hooks, loop, optim, sharding, trees
from vitjax.checkpoint import Checkpointer
from vitjax.config import Tracked
from vitjax.data import pipeline, sources
from vitjax.errors import UserError
from vitjax.experiment import Experiment
from vitjax.objective import State
from vitjax.progress import Progress, start_table
from vitjax.writers import MetricsWriter


def main(argv: Sequence[str]) -> int:
    """Trains what the command line describes; 0, or 128 + the signal that stopped it (Ctrl-C: 130)."""
    options = cli.parser("vitjax.main", __doc__)
    cli.add_workdir(options, "where the run lives; given again, the run goes on")
    options.add_argument(
        "--allow_cpu", action="store_true", help="use the CPU although an accelerator is there"
    )
    values, flags = cli.parse(options, argv)
    config = cli.load_config(flags)
    devices.check(values.allow_cpu)
    with stop_on_signals() as received:
        train(config, values.workdir, given=cli.keys(flags), stop=lambda: bool(received))
    if not received:
        return 0
    print(f"Stopped and saved. To go on: python -m vitjax.main {shlex.join(argv)}", flush=True)
    return 128 + received[0]


def train(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    given: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Experiment:
    """The experiment of `config`, trained in `workdir` from its newest checkpoint or from the start.

    Args:
      given: the keys that the user set ('config.a.b'), which must have an effect.
      stop: asked after every step; True saves and returns.

    Raises:
      UserError: a setting or a file does not fit; nothing has been computed then.
    """
    config, workdir = Tracked(config), Path(workdir)
    devices.keep_freed_memory()
    devices.use_compilation_cache()
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.batch_size, mesh, config.accum)
    source = sources.open_source(config.data, config.data.split)
    built = _experiment(config, source, workdir)
    loader = _train_loader(config, source, mesh)
    every, saving = dict(config.log), config.checkpoint
    profile = config.profile.start_step, config.profile.steps
    weights = experiment.given_weights(built)
    seed = config.seed
    config.refuse_unread(given)

    abstract = _sharded(experiment.abstract_state(built), mesh)
    checkpointer = Checkpointer(workdir / "checkpoints", keep=saving.keep)
    first = checkpointer.latest_step() or 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(sharding.use(mesh))
        stack.callback(checkpointer.close)
        state = checkpointer.restore(abstract) if first else _fresh_state(built, abstract, weights)
        if jax.process_index() == 0:
            experiment.write_config(built)
        step_fn, flops_per_step = _compiled_step(built, seed, mesh, abstract)
        print(start_table(_facts(built, source, mesh, state, flops_per_step, first)), flush=True)
        writer = stack.enter_context(MetricsWriter(workdir, first_step=first))
        progress = stack.enter_context(
            Progress(
                total_steps=built.run.total_steps,
                first_step=first,
                batch_size=built.run.batch_size,
                flops_per_step=flops_per_step,
                peak_flops=flops.peak(mesh.devices.flat),
            )
        )
        batches = stack.enter_context(loader(first))
        loop.train(
            step_fn,
            state,
            batches,
            first_step=first,
            total_steps=built.run.total_steps,
            mesh=mesh,
            stop=stop,
            hooks=[
                hooks.bad_records(source, workdir / "bad_records.jsonl", progress, every["every_steps"]),
                hooks.log(writer, progress, every["every_steps"]),
                hooks.profile(workdir / "profile", *profile),
                hooks.pictures(built, mesh, writer, every["pictures_every_steps"]),
                hooks.save(checkpointer, writer, saving.every_steps),
                hooks.evaluation(built, mesh, writer, progress),
            ],
        )
    return built


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


def _experiment(config: Tracked, source: Any, workdir: Path) -> Experiment:
    data = config.data
    spec = pipeline.batch_spec(
        source,
        batch_size=config.batch_size,
        canvas_px=pipeline.canvas_px(data),
        crop=data.crop,
        size_px=data.size_px,
    )
    shapes = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in spec.items()}
    run = experiment.surroundings(config, len(source), source.class_names, shapes)
    return experiment.build(config, run, workdir)


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


def _sharded(state: State, mesh: Mesh) -> State:
    """The shapes of a state with the sharding of each leaf."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state,
        sharding.shardings(state, mesh),
    )


def _shardings(abstract: State) -> State:
    return jax.tree.map(lambda x: x.sharding, abstract)


def _fresh_state(built: Experiment, abstract: State, weights: dict[str, Any]) -> State:
    """The state at step 0, made where it will live: no device ever holds more than its part."""
    seed = built.config.seed
    init = jax.jit(lambda given: experiment.fresh(built, seed, given), out_shardings=_shardings(abstract))
    return init(weights)


def _compiled_step(built: Experiment, seed: int, mesh: Mesh, abstract: State) -> tuple[Callable, float]:
    """The compiled training step and its FLOPs."""
    spec = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spec)
        for name, x in built.run.batch_spec.items()
    }
    traced = loop.make_step(built.objective, seed, mesh, _shardings(abstract)).trace(abstract, batch)
    before = time.perf_counter()
    print("Compiling the training step ...", end="", flush=True)
    compiled = traced.lower().compile()
    print(f" {time.perf_counter() - before:.1f} s", flush=True)
    return compiled, flops.count_jaxpr(traced.jaxpr)


def _facts(
    built: Experiment, source: Any, mesh: Mesh, state: State, flops_per_step: float, first: int
) -> dict[str, str]:
    """What will run, for the table at the start."""
    run, config = built.run, built.config
    sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in state.params.items()}
    device = mesh.devices.flat[0]
    axes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    rates = optim.describe(config, run)
    unfinished = ", which the run does not reach" if rates["warmup_steps"] > run.total_steps else ""
    epochs = run.total_steps / run.steps_per_epoch
    picture = run.batch_spec["image"]
    return {
        "objective": f"{config.objective.name} with {config.model.name}",
        "devices": f"{mesh.size} x {device.device_kind}, mesh {axes}, computing in {jax.numpy.dtype(run.dtype).name}",
        "parameters": f"{sum(sizes.values()):,} ({', '.join(f'{k} {v:,}' for k, v in sizes.items())})",
        "compute": f"{flops_per_step / run.batch_size / 1e9:.3g} GFLOP a picture, forward and backward",
        "data": f"{source!r}: {len(source):,} pictures, {picture.size // run.batch_size / 1e3:,.0f} kB each on the way",
        "batch": f"{run.batch_size} pictures in {config.accum} part(s), {run.steps_per_epoch:,.1f} steps an epoch",
        "learning rate": f"{rates['base_lr']:g} -> peak {rates['peak_lr']:g} after {rates['warmup_steps']:,} steps{unfinished}",
        "horizon": f"{run.total_steps:,} steps = {epochs:,.1f} epochs = {run.total_steps * run.batch_size:,} pictures",
        "start": f"from the checkpoint of step {first:,}" if first else "fresh",
        "workdir": str(built.path),
    }


if __name__ == "__main__":
    cli.run(main)
