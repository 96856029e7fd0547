"""Small objectives that use every part of the core, for the tests of the core."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vitjax import health
from vitjax.objective import Output, Player, from_loss, from_players

D, Q = 6, 16


def batch_of(size: int, seed: int = 0) -> dict:
    """A batch as the step gets it."""
    x = np.random.default_rng(seed).normal(size=(size, D)).astype(np.float32)
    return {"x": jnp.asarray(x), "row": jnp.arange(size, dtype=jnp.int32)}


def stateful(accum: int = 1, tx=None):
    """A regression with an EMA teacher, batch statistics and a queue of past features."""

    def init(key, batch):
        w = jax.random.normal(key, (D, 4)) * 0.3
        return {
            "params": {"backbone": {"w": w}, "head": {"b": jnp.zeros((4,))}},
            "batch_stats": {"backbone": {"mean": jnp.zeros((D,))}},
        }

    def start(variables):
        return {"teacher": variables["params"], "queue": jnp.zeros((Q, 4))}

    def views(batch, key):
        noise = jax.vmap(lambda r: jax.random.normal(jax.random.fold_in(key, r), (D,)))(batch["row"])
        return {**batch, "x": batch["x"] + 0.1 * noise}

    def loss(params, extra, batch, key, step):
        x, mean = batch["x"], extra["batch_stats"]["backbone"]["mean"]
        z = x @ params["backbone"]["w"] + params["head"]["b"]
        target = jax.lax.stop_gradient(x @ extra["teacher"]["backbone"]["w"] + 1.0)
        value = jnp.mean((z - target) ** 2) + 0.1 * jnp.mean(z @ extra["queue"].T)
        new = {
            **extra,
            "batch_stats": {"backbone": {"mean": 0.9 * mean + 0.1 * jnp.mean(x, 0)}},
            "queue": jnp.concatenate([jax.lax.stop_gradient(z), extra["queue"]])[:Q],
        }
        return value, Output(new, {"z": jnp.mean(z)}, weight=x.shape[0], features=z, chance=1.0)

    def after(params, extra, step):
        teacher = jax.tree.map(lambda t, p: 0.9 * t + 0.1 * p, extra["teacher"], params)
        return params, {**extra, "teacher": teacher}

    return from_loss(
        init=init, start=start, views=views, loss=loss, after=after,
        tx=optax.adam(0.05) if tx is None else tx, accum=accum,
        export=lambda state: {"params": state.params, "batch_stats": state.extra["batch_stats"]},
        predict={"features": lambda v, batch, key: batch["x"] @ v["params"]["backbone"]["w"]},
    )  # fmt: skip


def game(accum: int = 1, tx=None):
    """A 2:1 game: a critic that separates real from made numbers twice a round, a maker that moves once."""

    def init(key, batch):
        return {"params": {"maker": {"shift": jnp.zeros((D,))}, "critic": {"w": jnp.ones((D,)) * 0.1}}}

    def critic(params, extra, batch, key, step):
        fake = params["maker"]["shift"]
        seen = extra["seen"] + jnp.sum(batch["row"])
        value = -jnp.mean(batch["x"] @ params["critic"]["w"]) + fake @ params["critic"]["w"]
        return value + 0.5 * jnp.sum(params["critic"]["w"] ** 2), Output({**extra, "seen": seen}, {})

    def maker(params, extra, batch, key, step):
        return -jnp.dot(params["maker"]["shift"], params["critic"]["w"]), Output(extra, {})

    def after(params, extra, step):
        return params, {**extra, "ema": 0.5 * extra["ema"] + 0.5 * params["maker"]["shift"]}

    tx = optax.sgd(0.3) if tx is None else tx
    players = [Player("critic", critic, tx, steps=2), Player("maker", maker, tx)]
    return from_players(
        init=init,
        players=players,
        start=lambda variables: {"seen": jnp.zeros((), jnp.int32), "ema": jnp.zeros((D,))},
        after=after,
        export=lambda state: {"params": {"maker": {"shift": state.extra["ema"]}}},
        predict={"sample": lambda v, batch, key: v["params"]["maker"]["shift"]},
        accum=accum,
    )


def siamese(stop, probe=None):
    """SimSiam on points: two noisy views, a network with batch norm, a predictor; the target is detached or not."""
    width, out = 32, 16

    def init(key, batch):
        keys = jax.random.split(key, 4)
        shapes = [(D, width), (width, out), (out, width), (width, out)]
        names = ("first", "second", "predict", "predicted")
        params = {n: jax.random.normal(k, s) / np.sqrt(s[0]) for n, k, s in zip(names, keys, shapes)}
        return {"params": params}

    def norm(x):
        return (x - x.mean(0)) * jax.lax.rsqrt(x.var(0) + 1e-5)

    def unit(x):
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    def views(batch, key):
        noise = 0.5 * jax.random.normal(key, (2, *batch["x"].shape))
        return {**batch, "a": batch["x"] + noise[0], "b": batch["x"] + noise[1]}

    def loss(params, extra, batch, key, step):
        h = [jax.nn.relu(norm(batch[name] @ params["first"])) for name in "ab"]
        z = [x @ params["second"] for x in h]
        p = [jax.nn.relu(norm(x @ params["predict"])) @ params["predicted"] for x in z]
        targets = [jax.lax.stop_gradient(x) for x in z] if stop else z
        value = -sum(jnp.mean(jnp.sum(unit(a) * unit(b), -1)) for a, b in zip(p, targets[::-1])) / 2
        return value, Output(extra, health.panel(*z), features=h[0])

    return from_loss(
        init=init, loss=loss, views=views, tx=optax.sgd(0.2, momentum=0.9), export=lambda s: {"params": s.params},
        predict={}, couples_examples=True, probe=probe,
    )  # fmt: skip
