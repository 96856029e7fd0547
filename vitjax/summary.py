"""What will run, and where its arrays will lie, said before it does."""

import collections
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vitjax import experiment, optim
from vitjax.data import pipeline
from vitjax.experiment import Experiment
from vitjax.objective import State

_SOURCE = re.compile(r"(\w+)Source\('(.*?)'[,)]")


def facts(
    built: Experiment, source: Any, mesh: Mesh, state: State, flops_per_step: float, changed: Mapping[str, str]
) -> dict[str, str]:
    """Name -> text: the model, the machine, the data, the rates, the horizon of a run, and what `changed` since its
    last start.
    """
    run, config, first = built.run, built.config, int(state.step)
    said = {
        "objective": experiment.title(config),
        "devices": _devices(mesh, run.dtype),
        "parameters": _parameters(state),
        "state": sharding_table(state, mesh),
        "compute": f"{flops_per_step / run.batch_size / 1e9:.3g} GFLOP a picture, forward and backward",
        "data": _data(source, run),
        "decoding": _decoding(config.data.workers),
        "batch": f"{run.batch_size:,} pictures in {config.accum} part(s), {_per_epoch(run)}",
        "learning rate": _rates(config, run),
        "weight decay": _decay(config, run),
        **_still(config, run),
        "horizon": _horizon(run),
        "start": f"from the checkpoint of step {first:,}" if first else _fresh(config.init),
        "workdir": str(built.path),
    }
    if changed:
        said["changed"] = "\n".join(f"{key}: {what}" for key, what in changed.items())
    return said


def _fresh(init: Any) -> str:
    """How a run begins that has no checkpoint."""
    given = [f"{part} from {path}" for part, path in init.items() if path]
    return "fresh" + "".join(f", {text}" for text in given)


def _devices(mesh: Mesh, dtype: Any) -> str:
    axes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    kind = mesh.devices.flat[0].device_kind
    hosts = f" on {jax.process_count()} hosts" if jax.process_count() > 1 else ""
    return f"{mesh.size} x {kind}{hosts}, mesh {axes}, computing in {jnp.dtype(dtype).name}"


def _parameters(state: State) -> str:
    parts = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in state.params.items()}
    return f"{sum(parts.values()):,} ({', '.join(f'{name} {size:,}' for name, size in parts.items())})"


def _data(source: Any, run: Any) -> str:
    kilobytes = run.batch_spec["image"].size / run.batch_size / 1e3
    return f"{len(source):,} pictures {_place(source)}, {kilobytes:,.0f} kB each on the way to the device"


def _decoding(workers: int) -> str:
    """Threads or processes, and whose choice that was."""
    processes = pipeline.processes(workers)
    if processes:
        return f"{processes} processes of {pipeline.threads(processes)} thread(s), as config.data.workers asks"
    chosen = "" if workers == 0 else " (config.data.workers=N would take processes)"
    return f"{pipeline.threads(workers)} threads{chosen}"


def _place(source: Any) -> str:
    """'in /x (folder)' of FolderSource('/x', ...), 'of the built-in digits (train)' of a source that says so."""
    found = _SOURCE.match(repr(source))
    return f"in {found[2]} ({found[1].lower()})" if found else f"of {source!r}"


def _per_epoch(run: Any) -> str:
    if run.steps_per_epoch < 1:
        return f"each picture {1 / run.steps_per_epoch:,.1f} times in every batch: the data are few for it"
    return f"{run.steps_per_epoch:,.1f} steps an epoch"


def _rates(config: Any, run: Any) -> str:
    rates = optim.describe(config, run)
    warmup = rates["warmup_steps"]
    short = ", which the run does not reach" if warmup > run.total_steps else ""
    start = f" from {rates['start_lr']:g}" if rates["start_lr"] else ""
    return f"base {rates['base_lr']:g}, peak {rates['peak_lr']:g} after {warmup:,} steps{start}{short}"


def _decay(config: Any, run: Any) -> str:
    rates = optim.describe(config, run)
    start, end = rates["weight_decay"], rates["end_weight_decay"]
    return f"{start:g}" if start == end else f"{start:g} to {end:g}, by a cosine"


def _still(config: Any, run: Any) -> dict[str, str]:
    """What does not move, or not at first; nothing where all moves all the time."""
    frozen, held = (", ".join(settings) for settings in (config.optim.frozen, config.optim.held))
    steps = optim.describe(config, run)["held_steps"]
    texts = [f"{frozen} never moves"] * bool(frozen) + [f"{held} held for {steps:,} steps"] * bool(held)
    return {"still": "; ".join(texts)} if texts else {}


def _horizon(run: Any) -> str:
    epochs = run.total_steps / run.steps_per_epoch
    return f"{run.total_steps:,} steps = {epochs:,.1f} epochs = {run.total_steps * run.batch_size:,} pictures"


def sharding_table(state: State, mesh: Mesh) -> str:
    """What is split how, and the bytes on each device: a line for params, opt, extra and their total.

    One device gets one short line.

    Args:
      state: of arrays, or of ShapeDtypeStructs with their shardings.
    """
    parts = {name: jax.tree.leaves(getattr(state, name)) for name in ("params", "opt", "extra")}
    parts["total"] = [x for leaves in parts.values() for x in leaves]
    if mesh.size == 1:
        return f"{_bytes(_size(parts['total']))} on one device"
    rows = [("", "arrays", "bytes", "a device", "layout")]
    for name, leaves in parts.items():
        here = sum(_on_a_device(x) for x in leaves)
        rows.append((name, f"{len(leaves):,}", _bytes(_size(leaves)), _bytes(here), _layouts(leaves)))
    return "\n".join(f"{a:8}{b:>8}{c:>12}{d:>12}  {e}".rstrip() for a, b, c, d, e in rows)


def _layouts(leaves: list[Any]) -> str:
    """'fsdp on 12 of 150 arrays, 98% of bytes; the rest replicated', the layout of most bytes first."""
    groups: dict[str, list[Any]] = collections.defaultdict(list)
    for leaf in leaves:
        groups[_layout(leaf)].append(leaf)
    whole = groups.pop("", [])
    split = sorted(groups.items(), key=lambda item: -_size(item[1]))
    total = max(_size(leaves), 1)
    texts = [f"{n} on {len(g):,} of {len(leaves):,} arrays, {100 * _size(g) / total:.0f}% of bytes" for n, g in split]
    rest = ["the rest replicated" if split else "replicated"] if whole else []
    return "; ".join(texts + rest)


def _layout(leaf: Any) -> str:
    """The axes of the mesh that split a leaf, such as 'fsdp x tensor'; '' where it is replicated."""
    named = [axis for axis in leaf.sharding.spec if axis is not None]
    axes = [a for axis in named for a in (axis if isinstance(axis, tuple) else (axis,))]
    return " x ".join(sorted(axis for axis in axes if leaf.sharding.mesh.shape[axis] > 1))


def _size(leaves: list[Any]) -> int:
    return sum(x.size * x.dtype.itemsize for x in leaves)


def _on_a_device(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _bytes(count: int) -> str:
    """'512 B', '98.3 kB', '1.23 GB'."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} B"
