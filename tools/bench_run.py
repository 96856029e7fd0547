"""What a run adds to its steps so that it cannot be lost: saves, the refusal of bad updates, the watchdog, alarms.

    python tools/bench_run.py
    python tools/bench_run.py --parameters=100_000_000 --config=configs/cifar10_mae.py --steps=50

Saves are those of a made-up state of --parameters parameters with Adam's two slots, into a temporary folder
($TMPDIR): how long the loop stands still, and what share that is of a minute's training. The steps are those of
the config, on random pictures. What is compared takes turns in one process, and each figure is a median; the range
stands beside it.
"""

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import bench_step
import jax
import jax.numpy as jnp
import timing

from vitjax import alarms, checksums, cli, devices, health, hooks, objective, sharding, trees
from vitjax.checkpoint import Checkpointer
from vitjax.config import base_config
from vitjax.errors import UserError
from vitjax.objective import State
from vitjax.progress import Progress, start_table
from vitjax.supervisor import Supervisor

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.py"
LEAVES = 150  # as many as a ViT of 12 blocks has


def main(argv: Sequence[str]) -> int:
    """Prints the table."""
    options = cli.parser("bench_run", __doc__)
    options.prog = "python tools/bench_run.py"
    options.add_argument("--parameters", type=_number, default=25_000_000, help="of the state that is saved")
    options.add_argument("--saves", type=int, default=9, help="with checksums and without, each")
    options.add_argument("--steps", type=int, default=8, help="steps in a block")
    options.add_argument("--blocks", type=int, default=40, help="blocks of each kind")
    options.add_argument("--allow_cpu", action="store_true", help="although an accelerator is there")
    values, flags = cli.parse(options, argv)
    for name in ("parameters", "saves", "steps", "blocks"):
        if getattr(values, name) < 1:
            raise UserError(f"--{name}={getattr(values, name)} must be at least 1")
    if not any(flag.startswith("--config=") for flag in flags):
        flags = [f"--config={QUICKSTART}", *flags]
    config = cli.load_config(flags)
    devices.keep_freed_memory()
    devices.check(values.allow_cpu)
    devices.use_compilation_cache()
    mesh = sharding.make_mesh(config.mesh)
    with sharding.use(mesh), tempfile.TemporaryDirectory() as folder:
        device = mesh.devices.flat[0].device_kind
        facts = {"devices": f"{mesh.size} x {device}, {timing.cores()} cores, jax {jax.__version__}"}
        facts |= of_saves(made_up(values.parameters), values.saves, Path(folder) / "saves")
        facts |= of_steps(config, mesh, values.steps, values.blocks, Path(folder) / "steps")
        print(start_table(facts), flush=True)
    return 0


def made_up(parameters: int) -> State:
    """A state of about so many parameters, and of Adam's slots for them."""

    def leaves(value: float) -> dict[str, jax.Array]:
        return {f"leaf_{i:03d}": jnp.full((max(1, parameters // LEAVES),), value) for i in range(LEAVES)}

    params = {"backbone": leaves(1.0)}
    return State(jnp.int32(0), params, {"mu": {"backbone": leaves(0.5)}, "nu": {"backbone": leaves(0.25)}}, {})


def of_saves(state: State, saves: int, folder: Path) -> dict[str, str]:
    """How long a save holds the loop up, with checksums and without, and when it is on the disk."""
    blocked: dict[str, list[float]] = {"with": [], "without": []}
    written: list[float] = []
    with Checkpointer(folder, keep=1) as checkpointer:
        checkpointer.prepare(state)
        # The first save of a run makes folders and threads; it is not counted.
        for step in range(1, 2 * saves + 2):
            side = "with" if step % 2 else "without"
            numbered = state._replace(step=jnp.int32(step))
            checkpointer.wait()
            with contextlib.nullcontext() if side == "with" else _no_checksums():
                before = time.perf_counter()
                checkpointer.save(step, numbered)
                stood = time.perf_counter() - before
            checkpointer.wait()
            if step > 1:
                blocked[side].append(stood)
                written.append(time.perf_counter() - before)
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    return {
        "save": f"{size / 1e9:.3g} GB: {parameters:,} parameters with Adam's slots; {saves} saves of each kind",
        "blocks": _of_a_minute(blocked["with"]),
        "no checksums": _of_a_minute(blocked["without"]),
        "checksums": f"{timing.ratio(blocked['with'], blocked['without'])} of the blocking part without them",
        "on the disk": f"{statistics.median(written):.3g} s after the save began, while steps go on",
    }


def of_steps(config: Any, mesh: Any, steps: int, blocks: int, folder: Path) -> dict[str, str]:
    """The ratios of steps with what guards and watches them and without."""

    def bench() -> bench_step.Bench:
        return bench_step.Bench(config, mesh, 1000, str(folder))

    guarded = bench()
    with mock.patch.object(objective, "_accept", _accept_all):
        free = bench()
    with mock.patch.object(objective, "_health", lambda features, step: {}):
        unseen = bench()
    with mock.patch.object(health, "is_due", lambda step: step >= 0):
        ranked = bench()
    sides = {"guarded": guarded, "free": free, "unseen": unseen, "ranked": ranked}
    times = timing.interleave({name: side.bare for name, side in sides.items()}, steps, blocks)
    watcher = alarms.Watch(folder, base_config().alarms)
    watch = hooks.watch(watcher, Progress(total_steps=1, batch_size=1, stream=io.StringIO()))
    with guarded.real_loop(steps) as run:
        sides = {"watched": lambda n: _watched(run, n), "alarmed": lambda n: run(n, hooks=[watch]), "alone": run}
        times |= timing.interleave(sides, steps, blocks)
    rank_s = statistics.median(times["ranked"]) - statistics.median(times["guarded"])
    rank_share = rank_s / health.EVERY_STEPS / statistics.median(times["guarded"])
    named = f"{config.objective.name} with {config.model.name}, batches of {config.batch_size}"
    return {
        "step": f"{named}: {timing.spread(times['free'])}, in {blocks} blocks of {steps} steps",
        "guard": f"{timing.ratio(times['guarded'], times['free'])} of the step that takes any update",
        "supervisor": f"{timing.ratio(times['watched'], times['alone'])} of the loop without signals and watchdog",
        "panel": f"{timing.ratio(times['guarded'], times['unseen'])} of the step without the health panel",
        "rank": f"{1000 * rank_s:.2f} ms, every {health.EVERY_STEPS} steps: {rank_share:.2%} of them",
        "alarms": f"{timing.ratio(times['alarmed'], times['alone'])} of the loop without alarms",
    }


def _watched(run: Callable[..., None], steps: int) -> None:
    """`run` as `vitjax.main` has it; the thread's start and end are counted too."""
    defaults = base_config()
    supervisor = Supervisor(
        command="",
        newest=str,
        grace_s=defaults.grace_s,
        watchdog_s=defaults.watchdog_s,
        preempted_exit_code=defaults.preempted_exit_code,
    )
    with supervisor:
        run(steps, stop=supervisor.stop, enter=supervisor.enter)


def _accept_all(metrics: Mapping[str, Any], new: State, old: State) -> tuple[State, dict[str, Any]]:
    """What `objective._accept` would be without its choice."""
    return new._replace(step=old.step + 1), dict(metrics, skipped=jnp.zeros(()))


@contextlib.contextmanager
def _no_checksums() -> Iterator[None]:
    """Saves note zeros meanwhile."""
    with mock.patch.object(checksums, "of_tree", lambda tree: (list(flat := trees.flatten(tree)), [0] * len(flat))):
        yield


def _of_a_minute(seconds: Sequence[float]) -> str:
    """'0.21 s (0.19 to 0.25), 0.35% of a minute'."""
    middle = statistics.median(seconds)
    return f"{middle:.3g} s ({min(seconds):.3g} to {max(seconds):.3g}), {middle / 60:.2%} of a minute's training"


def _number(text: str) -> int:
    """'25_000_000', '25,000,000' or '25e6' as a number."""
    return int(float(text.replace(",", "").replace("_", "")))


if __name__ == "__main__":
    cli.run(main)
