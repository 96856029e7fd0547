"""Training steps of real objectives on any mesh, without data."""

import jax
import numpy as np
from ml_collections import ConfigDict
from objectives.objective_of import CONFIGS
from own_methods.runs import CONFIG

from vitjax import cli, experiment, loop, sharding
from vitjax.config import Tracked
from vitjax.objective import Run

CLASSES = 5
WIDE = dict(width=256, mlp_dim=1024, heads=8)  # matrices that are really split


def mesh_of(sizes):
    """The mesh of this shape over as many of the eight devices as it needs."""
    return sharding.make_mesh(ConfigDict(dict(zip(sharding.AXES, sizes))), jax.devices()[: int(np.prod(sizes))])


def config_of(name, batch_size=16, size_px=32, accum=1, **model):
    """The tiny form of a config, or that of the method of one's own; rates are constant from the first step."""
    config = cli.load_config([f"--config={CONFIG if name == 'stateful' else CONFIGS / f'{name}.py:tiny'}"])
    config.batch_size, config.accum = batch_size, accum
    if name != "stateful":
        config.data.size_px = config.data.canvas_px = size_px
        config.model.update(model)
        config.optim.update(dict(warmup_steps=0, schedule="constant"))
    return config


def build(config):
    """The experiment of a config on pictures of which every canvas is filled."""
    size, px = config.batch_size, config.data.canvas_px
    spec = {
        "image": ((size, px, px, 3), np.uint8), "size": ((size, 2), np.int32), "row": ((size,), np.int32),
        "valid": ((size,), bool), "label": ((size,), np.int32),
    }  # fmt: skip
    shapes = {name: jax.ShapeDtypeStruct(shape, np.dtype(dtype)) for name, (shape, dtype) in spec.items()}
    names = {"label": tuple(map(str, range(CLASSES)))}
    return experiment.build(Tracked(config), Run(100, 10.0, size, shapes, names, np.float32))


def batch_of(built, step):
    """The host batch of a step; some pictures have no label."""
    size, px = built.run.batch_size, built.config.data.canvas_px
    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (size, px, px, 3), np.uint8),
        "size": np.full((size, 2), px, np.int32),
        "row": np.arange(size, dtype=np.int32),
        "valid": np.ones(size, bool),
        "label": rng.integers(-1, CLASSES, size).astype(np.int32),
    }


def compiled(built, mesh):
    """(abstract state, compiled step), as the trainer makes them."""
    abstract = sharding.abstract(experiment.abstract_state(built), mesh)
    with sharding.use(mesh):
        return abstract, loop.trace_step(built.objective, built.run, 0, mesh, abstract).lower().compile()


def trained(built, mesh, steps=3, batch_of=batch_of):
    """(state, losses) after a few steps, as the trainer takes them."""
    abstract, step_fn = compiled(built, mesh)
    losses = []
    with sharding.use(mesh):
        state = experiment.fresh_state(built, abstract, {})
        state = loop.train(
            step_fn, state, (batch_of(built, step) for step in range(steps)), first_step=0, total_steps=steps,
            mesh=mesh, hooks=[lambda event: losses.append(event.metrics["loss"])],
        )  # fmt: skip
    return state, [float(loss) for loss in losses]
