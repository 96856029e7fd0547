"""Optimisers taken some steps down given gradients, on single arrays and on transformers, scanned or not."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from golden import wave
from ml_collections import ConfigDict

from vitjax import models, optim, trees

RUN = SimpleNamespace(total_steps=1000, steps_per_epoch=25.0, batch_size=256)


def config_of(name="adamw", **settings):
    base = dict(
        name=name, base_lr=1.0, base_batch=0, schedule="constant", warmup_steps=0, warmup_epochs=None,
        start_lr=0.0, end_lr=0.0, weight_decay=0.0, end_weight_decay=None, no_decay=(), decay_vectors=False,
        clip="global", clip_norm=0.0, layer_decay=1.0, rate_scales=(), constant_rate=(),
        frozen=(), held=(), held_steps=None, held_epochs=None,
    )  # fmt: skip
    own = {
        "adamw": dict(b1=0.9, b2=0.95, eps=1e-8),
        "lars": dict(momentum=0.9, trust_coefficient=0.001, form="simclr"),
        "sgd": dict(momentum=0.9, nesterov=False),
    }
    return ConfigDict(dict(optim=base | own.get(name, {}) | settings))


def sines(start, shape):
    """sin(start + k): the inputs of the published numbers."""
    return wave(start, shape).astype(np.float32)


# What a test compiles it runs a few times: the optimisation would be most of its time.
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def descend(tx, params, grads):
    """The parameters after each of `grads`, in one compiled step."""

    @fast_jit
    def step(params, state, grad, number):
        updates, state = tx.update(grad, state, params, step=number)
        return optax.apply_updates(params, updates), state

    state, out = fast_jit(tx.init)(params), []
    for number, grad in enumerate(grads):
        params, state = step(params, state, grad, number)
        out.append(params)
    return out


W, G1, G2 = sines(1, (3, 4)), 0.1 * sines(30, (3, 4)), 0.1 * sines(60, (3, 4))


@functools.cache
def vit_params(depth, scan, pool="cls"):
    """The shapes of a small transformer's parameters."""
    settings = dict(
        name="vit", width=8, depth=depth, heads=2, mlp_dim=16, patch_px=4, class_token=True, pool=pool,
        posemb="learned", norm_eps=1e-6, activation="gelu", drop_path=0.0, scan=scan, remat=False,
        attention="xla",
    )  # fmt: skip
    model = models.build(ConfigDict(settings))
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]


def looped_and_scanned(**settings):
    """A transformer's flat parameters at first and after five steps with single and with stacked blocks."""
    rng = np.random.default_rng(0)
    single = trees.flatten({"backbone": vit_params(3, scan=False), "head": {"kernel": np.ones((8, 3))}})
    stacked = trees.flatten({"backbone": vit_params(3, scan=True), "head": {"kernel": np.ones((8, 3))}})

    def draw(scale):
        # Blocks of unlike size, so that a norm over the whole stack would show.
        return {
            path: (scale * rng.uniform(0.1, 3) * rng.normal(size=x.shape)).astype(np.float32)
            for path, x in single.items()
        }

    params, grads = draw(1.0), [draw(0.2) for _ in range(5)]
    config = config_of(**(dict(base_lr=0.01, schedule="cosine", warmup_steps=2) | settings))
    tx, _ = optim.make(config, RUN)
    looped = descend(tx, trees.unflatten(params), [trees.unflatten(g) for g in grads])[-1]
    scanned = descend(
        tx,
        trees.unflatten(trees.stack(params, stacked)),
        [trees.unflatten(trees.stack(g, stacked)) for g in grads],
    )[-1]
    return params, trees.flatten(looped), trees.unstack(trees.flatten(scanned))
