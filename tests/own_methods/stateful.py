"""A method of one's own, outside of vitjax, that has every kind of state: for the tests of the core.

Momentum contrast in small: two views, a network with batch statistics and dropout, an EMA teacher and a
queue of what the teacher said before.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vitjax import augment, probe, sharding
from vitjax.objective import Output, from_loss

KEY_DROPOUT = 100


def make(config, run, tx=None):
    """The objective; `config.objective` holds width, queue, temperature, dropout, ema and learning_rate."""
    c = config.objective
    width, queue, temperature, dropout, ema = c.width, c.queue, c.temperature, c.dropout, c.ema
    size_px = config.data.size_px

    def init(key, batch):
        key_backbone, key_head = jax.random.split(key)
        first = jax.random.normal(key_backbone, (size_px**2 * 3, width)) / np.sqrt(size_px**2 * 3)
        backbone = {"kernel": first, "scale": jnp.ones(width), "bias": jnp.zeros(width)}
        head = {"kernel": jax.random.normal(key_head, (width, width)) / np.sqrt(width)}
        stats = {"backbone": {"mean": jnp.zeros(width), "var": jnp.ones(width)}}
        return {"params": {"backbone": backbone, "head": head}, "batch_stats": stats}

    def start(variables):
        return {"teacher": variables["params"], "queue": jax.random.normal(jax.random.key(1), (queue, width))}

    def pictures(batch):
        return batch["image"].astype(jnp.float32) / 127.5 - 1

    def views(batch, key):
        """Two that differ by noise; random crops would take long to compile."""
        images, keys = pictures(batch), augment.row_keys(key, batch["row"])
        noise = jax.vmap(lambda k: jax.random.uniform(k, (2, *images.shape[1:])))(keys) - 0.5
        return {**batch, "image": images + noise[:, 0], "other": images + noise[:, 1]}

    def hidden(params, images):
        x = sharding.constrain(images.reshape(len(images), -1), "batch")
        return x @ params["backbone"]["kernel"]

    def normal(params, h, mean, var):
        p = params["backbone"]
        return jax.nn.gelu((h - mean) * jax.lax.rsqrt(var + 1e-5) * p["scale"] + p["bias"])

    def embedded(params, images, drop):
        """Unit vectors, and the statistics of the batch."""
        h = hidden(params, images)
        mean, var = h.mean(0), h.var(0)
        z = (normal(params, h, mean, var) * drop) @ params["head"]["kernel"]
        return z / jnp.linalg.norm(z, axis=-1, keepdims=True), {"mean": mean, "var": var}

    def loss(params, extra, batch, key, step):
        keys = augment.row_keys(jax.random.fold_in(key, KEY_DROPOUT), batch["row"])
        kept = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - dropout, (width,)))(keys) / (1 - dropout)
        z, seen = embedded(params, batch["image"], kept)
        target = jax.lax.stop_gradient(embedded(extra["teacher"], batch["other"], 1.0)[0])
        positive = jnp.sum(z * target, -1, keepdims=True)
        logits = jnp.concatenate([positive, z @ extra["queue"].T], -1) / temperature
        stats = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, extra["batch_stats"]["backbone"], seen)
        new = {
            **extra,
            "batch_stats": {"backbone": jax.lax.stop_gradient(stats)},
            "queue": jnp.concatenate([target, extra["queue"]])[:queue],
        }
        nats = jax.nn.logsumexp(logits, -1) - logits[:, 0]
        said = {"positive": jnp.mean(positive)}
        return jnp.mean(nats), Output(new, said, weight=len(z), features=z, chance=np.log(queue + 1))

    def after(params, extra, step):
        teacher = jax.tree.map(lambda t, p: ema * t + (1 - ema) * p, extra["teacher"], params)
        return params, {**extra, "teacher": teacher}

    def features(variables, batch, key):
        params, stats = variables["params"], variables["batch_stats"]["backbone"]
        return normal(params, hidden(params, pictures(batch)), stats["mean"], stats["var"])

    return from_loss(
        init=init, start=start, views=views, loss=loss, after=after,
        tx=optax.adamw(c.learning_rate) if tx is None else tx, accum=config.accum,
        export=lambda s: {"params": s.params, "batch_stats": s.extra["batch_stats"]},
        predict={"features": features}, probe=probe.make(config, run),
    )  # fmt: skip
