import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import wave

from vitjax.losses import contrastive

# Compiled: operation by operation the tests would take ten times as long.
nt_xent = jax.jit(contrastive.nt_xent)
info_nce = jax.jit(contrastive.info_nce)
info_nce_two_sided = jax.jit(contrastive.info_nce_two_sided)
margin_contrastive = jax.jit(contrastive.margin_contrastive)

Z1 = jnp.asarray(wave(1, (4, 8)), jnp.float32)
Z2 = jnp.asarray(wave(1, (4, 8)) + 0.5 * wave(100, (4, 8)), jnp.float32)


@pytest.mark.parametrize(
    "temperature, wanted",
    [
        (0.1, 0.06540560361130987),
        (0.2, 0.18902758732819297),
        (0.5, 0.6522603631855668),
        (1.0, 1.1233737235089354),
    ],
)
def test_nt_xent_is_the_golden_one(temperature, wanted):
    assert nt_xent(Z1, Z2, temperature) == pytest.approx(wanted, rel=1e-5)


def test_gradient_of_nt_xent_is_the_golden_one():
    first, second = jax.jit(jax.grad(nt_xent, (0, 1)))(Z1, Z2, 0.5)
    row = [
        0.014797792560382717, -0.013882570800330889, -0.0297993625899757, -0.0183187578411984,
        0.01000402838549657, 0.029129157050506654, 0.021473073059271267, -0.0059252552745080594,
    ]  # fmt: skip
    np.testing.assert_allclose(first[0], row, rtol=1e-4, atol=1e-6)
    assert jnp.linalg.norm(second) == pytest.approx(0.16581016511801255, rel=1e-5)


def test_a_collapsed_batch_costs_the_logarithm_of_the_other_views():
    same = jnp.ones((5, 3))
    assert nt_xent(same, same, 0.1) == pytest.approx(np.log(2 * 5 - 1), rel=1e-6)
    assert info_nce(same, same, 0.1) == pytest.approx(np.log(5), rel=1e-6)
    assert info_nce(same, same, 0.1, queue=jnp.ones((7, 3))) == pytest.approx(np.log(5 + 7), rel=1e-6)


def test_an_anchor_is_no_negative_of_its_own():
    """One picture, two views: nothing to be told apart from."""
    assert nt_xent(Z1[:1], Z2[:1], 0.1) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    "temperature, there, back",
    [
        (0.07, 0.04800746745806158, 0.024781888519938802),
        (0.2, 0.15753710794891485, 0.14236617392879058),
        (1.0, 0.7343148201706632, 0.7344131894783883),
    ],
)
def test_info_nce_is_the_golden_one(temperature, there, back):
    assert info_nce(Z1, Z2, temperature) == pytest.approx(there, rel=2e-5)
    assert info_nce(Z2, Z1, temperature) == pytest.approx(back, rel=2e-5)
    assert info_nce_two_sided(Z1, Z2, temperature) == pytest.approx((there + back) / 2, rel=2e-5)


def test_moco_v3_is_both_directions_times_twice_the_temperature():
    assert 0.4 * info_nce(Z1, Z2, 0.2) == pytest.approx(0.06301484317956595, rel=1e-5)


def test_gradient_of_info_nce_is_the_golden_one():
    """That of CLIP at scale 1 / 0.07."""
    first, second = jax.jit(jax.grad(info_nce_two_sided, (0, 1)))(Z1, Z2, 0.07)
    row = [0.008736291297883489, -0.008195964498102505, -0.017592888332159873, -0.010814991767390833]
    np.testing.assert_allclose(first[0, :4], row, rtol=1e-4)
    assert jnp.linalg.norm(first) == pytest.approx(0.2533148777242238, rel=1e-4)
    assert jnp.linalg.norm(second) == pytest.approx(0.18008927076293202, rel=1e-4)


def test_the_queue_holds_negatives_that_get_no_gradient():
    queue = jnp.asarray(wave(300, (6, 8)), jnp.float32)
    loss = jax.jit(jax.value_and_grad(lambda q, queue: info_nce(q, Z2, 0.2, queue=queue), (0, 1)))
    value, grads = loss(Z1, queue)
    q, k, more = (np.asarray(x) / np.linalg.norm(x, axis=1, keepdims=True) for x in (Z1, Z2, queue))
    logits = q @ np.concatenate([k, more]).T / 0.2
    wanted = np.log(np.exp(logits).sum(axis=1)) - np.diagonal(logits)
    assert value == pytest.approx(wanted.mean(), rel=1e-5)
    assert jnp.all(grads[1] == 0) and jnp.linalg.norm(grads[0]) > 0.01


def test_keys_get_a_gradient_unless_it_is_stopped():
    assert jnp.linalg.norm(jax.jit(jax.grad(info_nce, 1))(Z1, Z2, 0.2)) > 0.01


@pytest.mark.parametrize("margin, wanted", [(1.0, 0.2148630948287618), (2.0, 0.43287690782234006)])
def test_margin_loss_is_the_golden_one(margin, wanted):
    same = jnp.asarray([True, False, True, False])
    assert margin_contrastive(Z1, Z2, same, margin) == pytest.approx(wanted, rel=1e-5)


def test_gradient_of_the_margin_loss_pulls_the_same_together_and_pushes_others_to_the_margin():
    x1, x2 = jnp.asarray([[3.0, 0], [3.0, 0], [0.5, 0]]), jnp.zeros((3, 2))
    same = jnp.asarray([True, False, False])
    gradient = jax.jit(jax.grad(margin_contrastive))(x1, x2, same, 1.0)
    np.testing.assert_allclose(gradient, [[3 / 3, 0], [0, 0], [-0.5 / 3, 0]], atol=1e-6)


def test_gradient_of_the_margin_loss_is_finite_where_two_embeddings_are_equal():
    gradient = jax.jit(jax.grad(margin_contrastive))(Z1, Z1, jnp.asarray([True, False, True, False]), 1.0)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(Z1))
