"""The contract of `from_loss` and `from_players`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toys

from vitjax import sharding
from vitjax.errors import UserError
from vitjax.objective import Output, ema, from_loss


def run(objective, steps=5, size=16, batches=None):
    state = jax.jit(objective.init)(jax.random.key(0), toys.batch_of(size))
    update = jax.jit(objective.update)
    for step in range(steps):
        batch = toys.batch_of(size, seed=step) if batches is None else batches[step]
        state, metrics = update(state, batch, jax.random.fold_in(jax.random.key(1), step))
    return state, metrics


def assert_close(a, b, tol):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=tol, atol=tol)


def test_the_stateful_objective_learns_and_moves_all_of_its_state():
    objective = toys.stateful()
    first, _ = run(objective, steps=1)
    last, metrics = run(objective, steps=40)
    assert int(last.step) == 40
    assert metrics["loss"] < 0.5 * run(objective, steps=1)[1]["loss"]
    for name in ("teacher", "queue", "batch_stats"):
        assert not jax.tree.all(jax.tree.map(jnp.array_equal, first.extra[name], last.extra[name])), name
    assert 0.5 < metrics["health/feature_std"] < 1.1 and metrics["chance"] == 1.0


def test_accumulation_equals_the_whole_batch_where_the_loss_is_a_mean():
    def plain(accum):
        def loss(params, extra, batch, key, step):
            keep = (batch["row"] % 3 == 0).astype(jnp.float32)
            errors = (batch["x"] @ params["w"] - 1.0) ** 2
            return jnp.sum(errors * keep) / jnp.sum(keep), Output(extra, {}, weight=jnp.sum(keep))

        return from_loss(
            init=lambda key, batch: {"params": {"w": jax.random.normal(key, (toys.D,))}},
            loss=loss, tx=optax.sgd(0.1), export=lambda s: {"params": s.params}, predict={}, accum=accum,
        )  # fmt: skip

    whole, parts = run(plain(1)), run(plain(4))
    assert_close(whole, parts, 1e-6)


def test_views_do_not_depend_on_accumulation():
    """Each row draws from its own key, so that a micro-batch sees the picture that the whole batch sees."""
    whole, _ = run(toys.stateful(accum=1), steps=1)
    parts, _ = run(toys.stateful(accum=4), steps=1)
    rows = [np.sort(np.asarray(state.extra["queue"]), axis=0) for state in (whole, parts)]
    np.testing.assert_allclose(*rows, rtol=1e-5)


def test_accumulation_is_refused_for_a_loss_that_couples_examples():
    with pytest.raises(UserError, match=r"config\.accum=2.*compares"):
        from_loss(init=None, loss=None, tx=None, export=None, predict={}, accum=2, couples_examples=True)


def test_an_update_that_is_not_finite_is_skipped_and_counted():
    batches = [toys.batch_of(16, seed=i) for i in range(3)]
    bad = {**batches[1], "x": batches[1]["x"].at[3, 2].set(jnp.nan)}
    before, _ = run(toys.stateful(), steps=1, batches=batches)
    after, metrics = run(toys.stateful(), steps=2, batches=[batches[0], bad])
    assert int(after.step) == 2 and metrics["skipped"] == 1.0
    assert_close(before._replace(step=0), after._replace(step=0), 0)
    assert run(toys.stateful(), steps=3, batches=batches)[1]["skipped"] == 0.0


@pytest.mark.parametrize("row", [0, 5, 10, 15])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("make", [toys.stateful, toys.game])
def test_one_picture_in_any_micro_batch_or_move_refuses_the_whole_update(make, value, row):
    objective = make(accum=2, tx=optax.adam(0.05))
    good = [toys.batch_of(16, seed=i) for i in range(2)]
    bad = {**good[1], "x": good[1]["x"].at[row, 2].set(value)}
    before, _ = run(objective, steps=1, batches=good)
    after, metrics = run(objective, steps=2, batches=[good[0], bad])
    assert int(after.step) == 2 and metrics["skipped"] == 1.0
    assert_close(before._replace(step=0), after._replace(step=0), 0)


@pytest.mark.parametrize("wrong", [np.inf, np.nan])
@pytest.mark.parametrize("leaf", ["a", "b", "c"])
def test_a_gradient_that_is_not_finite_in_any_leaf_is_refused_though_the_loss_is_finite(leaf, wrong):
    @jax.custom_gradient
    def breaks(x):
        return x, lambda g: jnp.full_like(g, wrong)

    def loss(params, extra, batch, key, step):
        params = {name: breaks(p) if name == leaf else p for name, p in params.items()}
        return sum(jnp.sum(p**2) for p in params.values()) + jnp.mean(batch["x"]), Output(extra, {})

    shapes = {"a": (3, 4), "b": (), "c": (5,)}
    objective = from_loss(
        init=lambda key, batch: {"params": {name: jnp.ones(shape) for name, shape in shapes.items()}},
        loss=loss, tx=optax.adam(0.1), export=lambda s: s.params, predict={},
    )  # fmt: skip
    state, metrics = run(objective, steps=1)
    assert np.isfinite(metrics["loss"]) and metrics["skipped"] == 1.0
    assert all((leaf == 1).all() for leaf in state.params.values())


def test_the_choice_costs_no_copy_of_what_the_step_does_not_touch():
    frozen = {"params": {"w": jnp.ones(())}, "frozen": {"big": jnp.ones((64, 64))}}
    objective = from_loss(
        init=lambda key, batch: frozen,
        loss=lambda params, extra, *_: (params["w"] * jnp.sum(extra["frozen"]["big"]), Output(extra, {})),
        tx=optax.sgd(0.1), export=lambda s: s.params, predict={},
    )  # fmt: skip
    state = objective.init(jax.random.key(0), toys.batch_of(4))
    jaxpr = str(jax.make_jaxpr(objective.update)(state, toys.batch_of(4), jax.random.key(0)))
    assert "f32[] = select_n" in jaxpr and "f32[64,64] = select_n" not in jaxpr


def test_one_device_equals_eight():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4, "tensor": 1})
    single, _ = run(toys.stateful(accum=2))
    with sharding.use(mesh):
        batches = [sharding.put_batch(jax.device_get(toys.batch_of(16, seed=i)), mesh) for i in range(5)]
        many, _ = run(toys.stateful(accum=2), batches=batches)
    assert_close(single, many, 1e-5)


def test_given_weights_replace_fresh_ones_before_the_copies_are_made():
    w = np.full((toys.D, 4), 7.0, np.float32)
    objective = toys.stateful()
    state = objective.init(jax.random.key(0), toys.batch_of(4), {"params/backbone/w": w})
    np.testing.assert_array_equal(state.params["backbone"]["w"], w)
    np.testing.assert_array_equal(state.extra["teacher"]["backbone"]["w"], w)


@pytest.mark.parametrize("path, shape", [("params/backbone/w", (2, 2)), ("params/backbone/other", (6, 4))])
def test_given_weights_of_another_model_are_refused_by_name(path, shape):
    with pytest.raises(UserError, match=path):
        toys.stateful().init(jax.random.key(0), toys.batch_of(4), {path: np.zeros(shape)})


def test_the_critic_moves_twice_on_two_sets_of_real_pictures():
    state, metrics = run(toys.game(), steps=1)
    x = np.asarray(toys.batch_of(16)["x"])
    w = np.full(toys.D, 0.1)
    for part in (x[0::2], x[1::2]):
        w = w - 0.3 * (w - part.mean(0))
    np.testing.assert_allclose(state.params["critic"]["w"], w, rtol=1e-5)
    np.testing.assert_allclose(state.params["maker"]["shift"], 0.3 * w, rtol=1e-5)
    np.testing.assert_allclose(state.extra["ema"], 0.15 * w, rtol=1e-5)
    assert int(state.extra["seen"]) == sum(range(16)), "each real picture is seen once"
    assert {"critic/loss", "maker/loss", "critic/grad_norm", "maker/grad_norm"} <= set(metrics)


def test_a_game_accumulates_like_one_loss():
    assert_close(run(toys.game(accum=1))[0].params, run(toys.game(accum=4))[0].params, 1e-6)


def test_a_round_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(UserError, match=r"config\.batch_size=15"):
        run(toys.game(), size=15)


def test_ema_averages_in_float32_and_takes_whole_numbers_from_the_new():
    old = {"w": jnp.array([1.0, 2.0]), "low": jnp.array([256.0], jnp.bfloat16), "count": jnp.array(3, jnp.int32)}
    new = {"w": jnp.array([3.0, 2.0]), "low": jnp.array([258.0], jnp.bfloat16), "count": jnp.array(7, jnp.int32)}
    got = jax.jit(ema)(old, new, 0.75)
    np.testing.assert_allclose(got["w"], [1.5, 2.0])
    assert got["count"] == 7
    assert {name: x.dtype for name, x in got.items()} == {name: x.dtype for name, x in old.items()}
    # In bfloat16 0.996 is 0.9961 and 1 - 0.996 is not 0.004: after one step in float32, 0.996 * 0.5 + 0.004 * 1.
    small = ema({"w": jnp.array([0.5], jnp.float32)}, {"w": jnp.array([1.0], jnp.bfloat16)}, 0.996)
    np.testing.assert_allclose(small["w"], 0.502, rtol=1e-6)


@pytest.mark.parametrize("momentum", [1.0, 0.9996])
def test_ema_of_equals_or_with_momentum_one_keeps_every_bit(momentum):
    old = {"w": jax.random.normal(jax.random.key(0), (1000,))}
    new = {"w": old["w"] if momentum < 1 else 3 * old["w"]}
    got = jax.jit(ema)(old, new, jnp.float32(momentum))
    np.testing.assert_array_equal(got["w"], old["w"])


def test_ema_of_trees_that_differ_is_refused():
    with pytest.raises(ValueError):
        ema({"a": jnp.zeros(2)}, {"a": jnp.zeros(2), "b": jnp.zeros(2)}, 0.5)
