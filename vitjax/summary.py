"""What will run, said before it does."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vitjax import experiment, optim
from vitjax.experiment import Experiment
from vitjax.objective import State


def facts(built: Experiment, source: Any, mesh: Mesh, state: State, flops_per_step: float) -> dict[str, str]:
    """Name -> text: the model, the machine, the data, the rates and the horizon of a run."""
    run, config, first = built.run, built.config, int(state.step)
    return {
        "objective": experiment.title(config),
        "devices": _devices(mesh, run.dtype),
        "parameters": _parameters(state),
        "compute": f"{flops_per_step / run.batch_size / 1e9:.3g} GFLOP a picture, forward and backward",
        "data": _data(source, run),
        "batch": f"{run.batch_size:,} pictures in {config.accum} part(s), {run.steps_per_epoch:,.1f} steps an epoch",
        "learning rate": _rates(config, run),
        "horizon": _horizon(run),
        "start": f"from the checkpoint of step {first:,}" if first else "fresh",
        "workdir": str(built.path),
    }


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
    return f"{source!r}: {len(source):,} pictures, {kilobytes:,.0f} kB each on the way to the device"


def _rates(config: Any, run: Any) -> str:
    rates = optim.describe(config, run)
    warmup = rates["warmup_steps"]
    short = ", which the run does not reach" if warmup > run.total_steps else ""
    return f"base {rates['base_lr']:g}, peak {rates['peak_lr']:g} after {warmup:,} steps{short}"


def _horizon(run: Any) -> str:
    epochs = run.total_steps / run.steps_per_epoch
    return f"{run.total_steps:,} steps = {epochs:,.1f} epochs = {run.total_steps * run.batch_size:,} pictures"
