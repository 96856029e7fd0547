"""The health panel: numbers of arrays whose health is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from golden import wave

from vitjax import alarms, health, sharding
from vitjax.config import base_config
from vitjax.periods import due


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def test_spread_is_1_on_the_sphere_and_0_in_a_point():
    np.testing.assert_allclose(health.spread(normal(500, 64)), 1, atol=0.01)
    np.testing.assert_allclose(health.spread(3 * jnp.ones((8, 4))), 0, atol=1e-6)
    np.testing.assert_allclose(health.spread(jnp.asarray([[1.0, 0.0], [0.0, 5.0]])), np.sqrt(0.5), rtol=1e-6)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
def test_rankme_is_that_of_the_paper(shape):
    x = wave(0.5, shape)
    values = np.linalg.svd(x, compute_uv=False)
    p = values / values.sum()
    np.testing.assert_allclose(health.rankme(x), np.exp(-np.sum(p * np.log(p + 1e-300))), rtol=1e-3)


def test_rankme_counts_the_directions_that_are_used():
    basis = jnp.linalg.qr(normal(64, 64))[0]
    np.testing.assert_allclose(health.rankme(basis[:, :5] @ basis[:5]), 5, rtol=1e-3)
    np.testing.assert_allclose(health.rankme(jnp.ones((300, 200))), 1, rtol=2e-3)
    np.testing.assert_allclose(health.rankme(jnp.zeros((4, 3))), 1)


def test_alignment_and_uniformity_are_those_of_the_paper():
    x, y = (wave(start, (5, 4)) for start in (0.0, 0.3))
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    pairs = [np.exp(-2 * np.sum((x[i] - x[j]) ** 2)) for i in range(5) for j in range(5) if i < j]
    np.testing.assert_allclose(health.alignment(3 * x, y), np.mean(np.sum((x - y) ** 2, 1)), rtol=1e-5)
    np.testing.assert_allclose(health.uniformity(3 * x), np.log(np.mean(pairs)), rtol=1e-5)
    np.testing.assert_allclose(health.uniformity(jnp.ones((4, 3))), 0, atol=1e-5)


def test_the_panel_is_of_both_views():
    x, y = normal(300, 8), normal(300, 8, seed=1)
    whole = health.panel(x, jnp.ones((300, 8)))
    np.testing.assert_allclose(whole["health/embedding_std"], health.spread(x) / 2, rtol=1e-5)
    np.testing.assert_allclose(whole["health/uniformity"], health.uniformity(x[:256]) / 2, rtol=1e-4)
    np.testing.assert_allclose(health.panel(x, y)["health/alignment"], 2, atol=0.15)


def test_assignments_tell_sure_from_unsure_and_one_prototype_from_all():
    def shares(codes):
        return [float(x) for x in health.assignments(jnp.asarray(codes)).values()]

    np.testing.assert_allclose(shares(np.eye(4)), [0, 1], atol=1e-6)
    np.testing.assert_allclose(shares(np.full((6, 4), 0.25)), [1, 1], rtol=1e-6)
    np.testing.assert_allclose(shares(np.eye(4)[[2, 2, 2]]), [0, 0], atol=1e-6)
    np.testing.assert_allclose(shares([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]), [0.5, 1], rtol=1e-6)


def test_teacher_and_student_agree_up_to_their_length():
    x = normal(6, 5)
    np.testing.assert_allclose(health.agreement(x, 4 * x), 1, rtol=1e-6)
    np.testing.assert_allclose(health.agreement(x, -x), -1, rtol=1e-6)


def test_nothing_of_the_panel_has_a_gradient():
    def total(x):
        return sum(sum(d.values()) for d in (health.panel(x, x + 1), health.assignments(x), health.of_features(x, 0)))

    grad = jax.grad(total)(jnp.abs(normal(12, 6)))
    assert not np.any(grad)


def test_the_effective_rank_is_there_when_it_is_due_and_0_else():
    objective = toys.stateful(accum=2)
    state, update = objective.init(jax.random.key(0), toys.batch_of(16)), jax.jit(objective.update)
    for step in range(1, 2 * health.EVERY_STEPS + 2):
        state, metrics = update(state, toys.batch_of(16), jax.random.key(0))
        assert (float(metrics[health.RANKME]) >= 1) == bool(health.is_due(step)), step
        assert (step in (1, health.EVERY_STEPS, 2 * health.EVERY_STEPS)) == bool(health.is_due(step))


def test_the_panel_of_eight_devices_is_that_of_one():
    def everything(x, y):
        return {**health.panel(x, y), **health.of_features(x, 0), **health.assignments(jax.nn.softmax(x))}

    x, y = normal(512, 40), normal(512, 40, seed=1)
    one = jax.jit(everything)(x, y)
    mesh = sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))
    with sharding.use(mesh):
        eight = jax.jit(everything)(*jax.device_put((x, y), sharding.batch_sharding(mesh)))
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("stop", [True, False])
def test_a_run_without_its_stop_gradient_is_caught_within_200_steps_and_the_healthy_one_is_quiet(tmp_path, stop):
    objective = toys.siamese(stop)
    state, update = jax.jit(objective.init)(jax.random.key(0), toys.batch_of(64)), jax.jit(objective.update)
    watcher = alarms.Watch(tmp_path, alarms.limits(base_config()))
    for step in range(1, 201):
        state, metrics = update(state, toys.batch_of(64, seed=step), jax.random.key(step))
        if due(step, alarms.EVERY_STEPS, last=False, first=True):
            watcher.look(step, {name: float(value) for name, value in metrics.items()})
    found = {(row["alarm"], row["metric"]) for row in alarms.read(tmp_path)}
    assert found == (set() if stop else {("collapse", "health/embedding_std")}), metrics
