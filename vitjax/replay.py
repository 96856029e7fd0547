"""Runs one step of a run again, to see why it was not finite.

    python -m vitjax.replay DIR --step=N
    python -m vitjax.replay DIR --step=N --save=batch.npz --config.mesh.fsdp=1

Steps are counted from 1, as in metrics.jsonl. The newest checkpoint before step N is restored, the steps up to N
are done again, and step N alone is looked at: its numbers, the weights that it met, the gradients that are not
finite, and the pictures that make them so. Nothing is written into DIR. It runs on any mesh and computes in the
type that the run computed in.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.sharding import Mesh

from vitjax import checkpoint, cli, devices, experiment, loop, nonfinite, sharding, stored, trees
from vitjax.config import Tracked, base_config
from vitjax.data import sources
from vitjax.data.batches import batch_of
from vitjax.errors import UserError
from vitjax.experiment import Experiment
from vitjax.objective import GRADIENT, State
from vitjax.progress import start_table
from vitjax.workdir import Workdir

# What may be another than in the run: where it runs, and where the pictures lie.
MAY_CHANGE = tuple(f"config.{key}" for key in ("mesh.", "dtype", "data.path", "data.workers", "data.cache_dir"))
SHOWN = 12  # leaves and pictures that are listed before the rest is only counted
MAX_CULPRITS = 8


class Attempt(NamedTuple):
    """A step as the run took it once: the batch that it met, and what was left out by then."""

    step: int
    batch: int
    left_out: tuple[int, ...]
    refused: Mapping[str, Any] | None  # the line of nonfinite.jsonl


class Health(NamedTuple):
    """Of some arrays together: the norm of what is finite, and how many numbers are not."""

    norm: jax.Array
    not_finite: jax.Array


def main(argv: Sequence[str]) -> None:
    """Replays what the command line asks for, and prints what it saw."""
    options = cli.parser("vitjax.replay", __doc__)
    cli.add_run(options, "the run")
    options.add_argument("--step", type=int, required=True, metavar="N", help="counted from 1")
    options.add_argument("--batch", type=int, metavar="B", help="of several batches that step N met, the number of one")
    options.add_argument("--save", metavar="FILE.npz", help="where to write the batch")
    options.add_argument("--from_start", action="store_true", help="if there is no checkpoint before, begin at step 1")
    cli.add_allow_cpu(options)
    values, given = cli.parse(options, argv)
    directory = cli.run_directory(values)
    other = [key for key in cli.keys(given) if not key.startswith(MAY_CHANGE)]
    if other:
        raise UserError(f"{other[0]}: a replay does what the run did; it takes {', '.join(MAY_CHANGE)} alone")
    home = Workdir(directory)
    home.fetch()
    config = experiment.read_config(home.path)
    config.mesh, config.dtype = base_config().mesh, experiment.read_dtype(home.path)
    tracked = Tracked(cli.override(config, given))
    devices.check(values.allow_cpu)
    devices.use_compilation_cache()
    attempt = find_attempt(home.local, left_out(home), values.step, values.batch)
    replay(experiment.read(home.path, tracked), attempt, values.save, values.from_start)


def replay(built: Experiment, attempt: Attempt, save: str | None = None, from_start: bool = False) -> None:
    """Does the step again and prints the report."""
    config, step = built.config, attempt.step
    source = sources.open_source(config.data, config.data.split)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.batch_size, mesh, config.accum)
    first = _start(built, step, from_start)
    loader = experiment.train_loader(config, source, sharding.local_rows(mesh, config.batch_size))
    with sharding.use(mesh), loader(first, attempt.left_out) as batches:
        abstract = sharding.abstract(experiment.abstract_state(built), mesh)
        compiled = loop.trace_step(built.objective, built.run, config.seed, mesh, abstract).lower().compile()
        state = _state(built, abstract, first)
        print(f"Step {step:,} of {built.path}, batch {attempt.batch:,}, after the checkpoint of step {first:,}")
        state = loop.train(
            compiled, state, batches, first_step=first, total_steps=step - 1, mesh=mesh, hooks=()
        )
        batch = next(batches)
        if save:
            np.savez(save, **batch)
        _report(built, attempt, source, mesh, state, batch, compiled)


def left_out(home: Workdir) -> tuple[int, ...]:
    """The batches that a run goes without: those of its newest checkpoint, and of rewinds since then."""
    folder = home.path / checkpoint.FOLDER
    newest = checkpoint.latest_step(folder)
    saved = () if newest is None else stored.read_meta(stored.at(folder, newest)).left_out
    rewinds = [row for row in nonfinite.read(home.local) if row["decision"] == "rewind"]
    return tuple(sorted({*saved, *(row["batch"] for row in rewinds if row["step"] > (newest or 0))}))


def find_attempt(workdir: Path, left_out: Sequence[int], step: int, batch: int | None = None) -> Attempt:
    """Step `step` with the batch that was refused there last, if one was, else with the batch that was kept.

    A batch that a rewind has left out since is met again by leaving out those before it alone.

    Args:
      left_out: the batches that the run has left out by now.

    Raises:
      UserError: there is no such step, or it never met that batch.
    """
    if step < 1:
        raise UserError(f"--step={step}: steps are counted from 1")
    refused = {row["batch"]: row for row in nonfinite.read(workdir) if row["step"] == step}
    kept = batch_of(step - 1, left_out)
    met = [number for number in refused if batch_of(step - 1, _before(number, left_out)) == number]
    number = batch if batch is not None else (met or [kept])[-1]
    if number not in (*met, kept):
        raise UserError(f"--batch={batch}: step {step} met {', '.join(map(str, sorted({*met, kept})))}")
    if len(met) > 1 and batch is None:
        print(f"Step {step:,} met batches {', '.join(map(str, met))}; --batch=B chooses. This is the last of them.")
    return Attempt(step, number, _before(number, left_out), refused.get(number))


def _before(number: int, left_out: Sequence[int]) -> tuple[int, ...]:
    return tuple(other for other in left_out if other < number)


def _start(built: Experiment, step: int, from_start: bool) -> int:
    """The step of the checkpoint to begin from; 0 is the fresh state."""
    if step > built.run.total_steps:
        raise UserError(f"--step={step}: the run has {built.run.total_steps:,} steps")
    saved = checkpoint.complete_steps(built.path / checkpoint.FOLDER)
    before = [number for number in saved if number < step]
    # From the start it is no longer than it can be from a checkpoint.
    if before or from_start or step <= built.config.checkpoint.every_steps:
        return max(before, default=0)
    there = ", ".join(f"{number:,}" for number in saved) or "none"
    raise UserError(
        f"no checkpoint of {built.path} lies before step {step:,} (it has {there}); --from_start does all the "
        f"{step - 1:,} steps before it again, and a run with more --config.checkpoint.keep keeps older ones"
    )


def _state(built: Experiment, abstract: State, first: int) -> State:
    if not first:
        return experiment.fresh_state(built, abstract, experiment.given_weights(built))
    with checkpoint.Checkpointer(built.path / checkpoint.FOLDER, keep=0) as checkpointer:
        return checkpointer.restore(abstract, first)


def _report(
    built: Experiment,
    attempt: Attempt,
    source: Any,
    mesh: Mesh,
    state: State,
    batch: Mapping[str, np.ndarray],
    compiled: Callable,
) -> None:
    """Runs the step and prints all that it shows."""

    def run(rows: np.ndarray) -> dict[str, float]:
        """The metrics of the step on these rows of the batch; the state stays."""
        chosen = {name: x[rows] for name, x in batch.items()}
        _, metrics = compiled(_copy(state), sharding.put_batch(chosen, mesh))
        return {name: float(x) for name, x in jax.device_get(metrics).items()}

    size = len(batch["row"])
    metrics = run(np.arange(size))
    refused = bool(metrics["skipped"])
    print(start_table({name: f"{value:.6g}" for name, value in metrics.items()}))
    if attempt.refused and not refused:
        print("The run refused this update and here it is finite: try the run's mesh and the run's hardware.")
    before = _health({part: leaves for part, leaves in _parts(state)})
    print("\nBefore the step")
    print(start_table({part: _said(health) for part, health in before.items()}))
    gradients = _gradients(built, state, sharding.put_batch(batch, mesh))
    print("\nGradients")
    print("\n".join(_of_gradients(gradients)))
    print("\nPictures")
    culprits: list[int] = []
    if refused and any(health.not_finite for health in before.values()):
        print("  any would do: numbers that the step began with are not finite")
    elif refused:
        culprits, said = find_culprits(lambda rows: bool(run(rows)["skipped"]), size)
        print(f"  {said}")
    print("\n".join(_of_pictures(source, batch, culprits)))


def find_culprits(is_refused: Callable[[np.ndarray], bool], size: int) -> tuple[list[int], str]:
    """The rows of a refused batch each of which alone makes it so, and a sentence about them.

    Args:
      is_refused: whether the step is refused on a batch made of these rows, `size` numbers.
    """
    everything = np.arange(size)
    parts = np.array_split(everything, min(4, size))
    if len(parts) > 1 and all(is_refused(_only(part, size)) for part in parts):
        return [], "not single ones: the step is not finite on any quarter of the batch"
    culprits: list[int] = []
    while len(culprits) < MAX_CULPRITS:
        rest = np.setdiff1d(everything, culprits)
        if not len(rest) or (culprits and not is_refused(_only(rest, size))):
            return culprits, f"{len(culprits)} of {size} that make the step not finite, each alone (marked !)"
        found = _one_culprit(is_refused, rest, size)
        if found is None:
            return culprits, "only together: each half of the batch is finite without the other"
        culprits.append(found)
    return culprits, f"at least {len(culprits)} that make the step not finite, each alone (marked !)"


def _one_culprit(is_refused: Callable[[np.ndarray], bool], rows: np.ndarray, size: int) -> int | None:
    """A row that does it alone, found by halving rows that do it together."""
    while len(rows) > 1:
        halves = np.array_split(rows, 2)
        rows = next((half for half in halves if is_refused(_only(half, size))), None)
        if rows is None:
            return None
    return int(rows[0])


def _only(rows: np.ndarray, size: int) -> np.ndarray:
    """`size` row numbers: `rows` in their own places, and again in the places of the others."""
    chosen = np.resize(rows, size)
    chosen[rows] = rows
    return chosen


def _copy(state: State) -> State:
    """The state in buffers that the step may take."""
    shardings = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(lambda x: jax.tree.map(jnp.copy, x), out_shardings=shardings)(state)


def _parts(state: State) -> Iterator[tuple[str, list[jax.Array]]]:
    """'params/backbone', 'extra/teacher/backbone', 'opt' -> their arrays."""

    def part(path: str) -> str:
        item, *inner = path.split("/")
        return item if item == "opt" else "/".join([item, *inner[: 2 if item == "extra" else 1]])

    flat = trees.flatten({"params": state.params, "extra": state.extra, "opt": state.opt})
    for name, leaves in itertools.groupby(flat.items(), lambda item: part(item[0])):
        yield name, [x for _, x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]


@jax.jit
def _health(groups: Mapping[str, list[jax.Array]]) -> dict[str, Health]:
    """Name -> health."""

    def of(leaves: list[jax.Array]) -> Health:
        finite = [jnp.where(jnp.isfinite(x), x, 0).astype(jnp.float32) for x in leaves]
        squares = sum((jnp.sum(jnp.square(x)) for x in finite), jnp.zeros(()))
        return Health(jnp.sqrt(squares), sum((jnp.sum(~jnp.isfinite(x)) for x in leaves), jnp.zeros((), int)))

    return {name: of(leaves) for name, leaves in groups.items()}


def _gradients(built: Experiment, state: State, batch: Mapping[str, jax.Array]) -> dict[str, Health]:
    """The health of each gradient, which the objective names in the step that it traces."""
    closed = jax.make_jaxpr(loop.make_step(built.objective, built.config.seed))(state, batch)
    named = {
        str(eqn.params["name"]).removeprefix(GRADIENT): eqn.outvars[0]
        for eqn in closed.eqns
        if eqn.primitive.name == "name" and str(eqn.params["name"]).startswith(GRADIENT)
    }
    jaxpr = closed.jaxpr.replace(outvars=list(named.values()), debug_info=None)
    values = jax.jit(jaxpr_as_fun(closed.replace(jaxpr=jaxpr)))(*jax.tree.leaves((state, batch)))
    return _health({name: [value] for name, value in zip(named, values)})


def _said(health: Health) -> str:
    count = int(health.not_finite)
    return f"norm {float(health.norm):.6g}" + (f", {count:,} numbers not finite" if count else "")


def _of_gradients(gradients: Mapping[str, Health]) -> Iterator[str]:
    bad = {name: health for name, health in gradients.items() if health.not_finite}
    if not bad:
        yield f"  all {len(gradients)} are finite"
        return
    yield f"  {len(bad)} of {len(gradients)} are not finite"
    yield start_table({name: _said(health) for name, health in list(bad.items())[:SHOWN]})
    if len(bad) > SHOWN:
        yield f"  and {len(bad) - SHOWN} more"


def _of_pictures(source: Any, batch: Mapping[str, np.ndarray], culprits: Sequence[int]) -> Iterator[str]:
    """A line for each picture, those that do it first."""
    rows = [*culprits, *(row for row in range(len(batch["row"])) if row not in culprits)]
    for row in rows[:SHOWN]:
        index = int(batch["index"][row])
        yield f"  {'!' if row in culprits else ' '} row {row:>4}  record {index:>8}  {source.name(index)}"
    if len(rows) > SHOWN:
        yield f"    and {len(rows) - SHOWN} more, which --save=FILE.npz writes"


if __name__ == "__main__":
    cli.run(main)
