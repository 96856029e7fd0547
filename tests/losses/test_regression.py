import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import wave

from vitjax.losses import regression

# Compiled: operation by operation the tests would take ten times as long.
unit_regression = jax.jit(regression.unit_regression)
negative_cosine = jax.jit(regression.negative_cosine)

Z1 = jnp.asarray(wave(1, (4, 8)), jnp.float32)
Z2 = jnp.asarray(wave(1, (4, 8)) + 0.5 * wave(100, (4, 8)), jnp.float32)
P2 = Z2 + jnp.asarray(0.1 * wave(7, (4, 8)), jnp.float32)


def test_byol_is_the_golden_sum_of_two_directions():
    assert unit_regression(Z1, Z2) == pytest.approx(0.21225015406682685, rel=1e-5)
    both = unit_regression(Z1, Z2) + unit_regression(P2, Z1)
    assert both == pytest.approx(0.412014021805533, rel=1e-5)


def test_gradient_of_byol_is_the_golden_one():
    gradient = jax.jit(jax.grad(unit_regression))(Z1, Z2)
    first = [
        0.025153046936080357, -0.02359736788506181, -0.050652471497515714, -0.031137926410994124,
        0.01700468461789055, 0.04951326703020765, 0.036499580077081685, -0.010071652472475559,
    ]  # fmt: skip
    np.testing.assert_allclose(gradient[0], first, rtol=1e-4, atol=1e-6)
    assert jnp.linalg.norm(gradient) == pytest.approx(0.22946860782884695, rel=1e-5)


def test_simsiam_is_the_golden_mean_of_two_directions():
    target = Z1 + jnp.asarray(0.2 * wave(3, (4, 8)), jnp.float32)
    loss = (negative_cosine(Z1, Z2) + negative_cosine(P2, target)) / 2
    assert loss == pytest.approx(-0.8454366454941026, rel=1e-5)


def test_gradient_of_the_cosine_is_half_that_of_the_regression():
    np.testing.assert_allclose(
        2 * jax.jit(jax.grad(negative_cosine))(Z1, Z2),
        jax.jit(jax.grad(unit_regression))(Z1, Z2),
        rtol=1e-4,
        atol=1e-6,
    )


def test_opposite_vectors_cost_most():
    assert unit_regression(Z1, -2 * Z1) == pytest.approx(4.0, rel=1e-6)
    assert negative_cosine(Z1, 2 * Z1) == pytest.approx(-1.0, rel=1e-6)
