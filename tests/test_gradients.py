"""Losses that compare pictures, embedded in one piece or in several."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitjax import sharding
from vitjax.errors import UserError
from vitjax.objective import Output, from_loss

B, D = 16, 6


def batch_of(seed=0):
    x = np.random.default_rng(seed).normal(size=(B, D)).astype(np.float32)
    return {"image": jnp.asarray(x), "row": jnp.arange(B), "valid": jnp.arange(B) != 3}


def views(batch, key):
    noise = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), (2, D)))(batch["row"])
    return {**batch, "image": batch["image"][:, None] + 0.3 * noise}


def contrastive(embed_chunks=1, accum=1, tx=None, norm=False):
    """A small InfoNCE between two views, with a teacher's embeddings, statistics and a learned scale in the loss."""

    def init(key, batch):
        params = {"backbone": {"w": jax.random.normal(key, (D, 5))}, "scale": jnp.float32(2.0)}
        return {"params": params, "batch_stats": {"mean": jnp.zeros(D)}}

    def embed(params, extra, batch, key, step):
        x = batch["image"]
        mean = jnp.mean(x, (0, 1))
        noise = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), (1, 5)))(batch["row"])
        z = jnp.tanh((x - mean if norm else x) @ params["backbone"]["w"] + 0.1 * noise)
        old = jax.lax.stop_gradient(x @ extra["teacher"]["w"])
        stats = {"mean": 0.9 * extra["batch_stats"]["mean"] + 0.1 * mean}
        return {"online": z, "teacher": old}, {**extra, "batch_stats": stats}

    def loss(params, extra, embedded, batch, key, step):
        assert set(batch) == {"row", "valid"}
        a, b = embedded["online"][:, 0], embedded["online"][:, 1] + embedded["teacher"][:, 0]
        logits = jnp.where(batch["valid"][None], params["scale"] * a @ b.T, -jnp.inf)
        valid = batch["valid"]
        losses = jnp.where(valid, -jnp.diagonal(jax.nn.log_softmax(logits)), 0.0)
        return jnp.sum(losses) / jnp.sum(valid), Output(extra, features=a, chance=float(np.log(B)))

    return from_loss(
        init=init, embed=embed, loss=loss, views=views, tx=optax.sgd(0.5) if tx is None else tx, accum=accum,
        start=lambda variables: {"teacher": variables["params"]["backbone"]},
        embed_chunks=embed_chunks, export=lambda state: {"params": state.params}, predict={}, couples_examples=True,
    )  # fmt: skip


def updated(objective, steps=2):
    state = objective.init(jax.random.key(0), batch_of())
    for step in range(steps):
        state, metrics = jax.jit(objective.update)(state, batch_of(step), jax.random.key(step))
    return state, metrics


def assert_close(a, b, atol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


@pytest.mark.parametrize("chunks", [2, 8])
def test_an_update_does_not_depend_on_the_chunks(chunks):
    (whole, logged), (parts, logged_too) = updated(contrastive()), updated(contrastive(chunks))
    assert_close(whole.params, parts.params, 1e-6)
    assert_close(logged, logged_too, 1e-5)
    assert float(logged["grad_norm"]) > 0.1


def test_statistics_go_from_chunk_to_chunk_once():
    state, _ = updated(contrastive(2), steps=1)
    key_views = jax.random.split(jax.random.key(0), 3)[0]
    x = views(batch_of(0), key_views)["image"]
    first = 0.1 * jnp.mean(x[0::2], (0, 1))
    expected = 0.9 * first + 0.1 * jnp.mean(x[1::2], (0, 1))
    np.testing.assert_allclose(state.extra["batch_stats"]["mean"], expected, atol=1e-6)


def test_batch_norm_sees_a_chunk():
    """Equal to one piece if the pieces are normalised alike: here rows 0, 2, .. and 1, 3, .. each on their own."""
    chunked = contrastive(2, norm=True)

    def of_both(params, batch, key):
        key_views, key_embed, _ = jax.random.split(key, 3)
        batch = views(batch, key_views)
        halves = [jax.tree.map(lambda x, i=i: x[i::2], batch) for i in range(2)]
        z = []
        for half in halves:
            x = half["image"] - jnp.mean(half["image"], (0, 1))
            noise = jax.vmap(lambda r: jax.random.normal(jax.random.fold_in(key_embed, r), (1, 5)))(half["row"])
            z.append(jnp.tanh(x @ params["backbone"]["w"] + 0.1 * noise))
        z = jnp.stack(z, 1).reshape(B, 2, 5)
        teacher = jax.lax.stop_gradient(batch["image"] @ params["backbone"]["w"])
        logits = params["scale"] * z[:, 0] @ (z[:, 1] + teacher[:, 0]).T
        logits = jnp.where(batch["valid"][None], logits, -jnp.inf)
        losses = jnp.where(batch["valid"], -jnp.diagonal(jax.nn.log_softmax(logits)), 0.0)
        return jnp.sum(losses) / jnp.sum(batch["valid"])

    start = chunked.init(jax.random.key(0), batch_of())
    grads = jax.jit(jax.grad(of_both))(start.params, batch_of(), jax.random.key(7))
    new, _ = jax.jit(chunked.update)(start, batch_of(), jax.random.key(7))
    assert_close(new.params, jax.tree.map(lambda p, g: p - 0.5 * g, start.params, grads), 1e-6)


def test_chunks_on_eight_devices_equal_one():
    whole, _ = updated(contrastive())
    mesh = sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))
    with sharding.use(mesh):
        objective = contrastive(2)
        state = objective.init(jax.random.key(0), batch_of())
        for step in range(2):
            batch = jax.device_put(batch_of(step), sharding.batch_sharding(mesh))
            state, _ = jax.jit(objective.update)(state, batch, jax.random.key(step))
    assert_close(whole.params, jax.device_get(state.params), 1e-6)


def test_pieces_that_a_loss_does_not_allow_are_refused_with_those_that_it_does():
    with pytest.raises(UserError, match=r"config\.accum=2: .*config\.embed_chunks=2"):
        contrastive(accum=2)
    with pytest.raises(UserError, match=r"config\.embed_chunks=4: .*config\.accum=4"):
        from_loss(init=None, loss=None, tx=None, export=None, predict={}, embed_chunks=4)
    with pytest.raises(UserError, match=r"config\.batch_size=16 must be a multiple of 3 \(config\.embed_chunks=3\)"):
        updated(contrastive(3))
