"""Weights over their largest singular value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import wave

from vitjax.models import spectral

NORMAL = jax.nn.initializers.normal(1.0)
W = jnp.asarray(wave(1, (4, 3)), jnp.float32).T  # [in, out]


def test_one_step_is_the_golden_one_and_many_find_the_largest_singular_value():
    u = jnp.asarray(wave(9, (4,)), jnp.float32)
    sigma, moved = spectral.power_iteration(W, u)
    assert float(sigma) == pytest.approx(2.446122307474464, rel=1e-6)
    expected = [0.509403512287321, -0.5098082647735253, 0.5000092013740455, -0.4802024504094472]
    np.testing.assert_allclose(moved, expected, rtol=1e-5)
    for _ in range(30):
        sigma, u = spectral.power_iteration(W, u)
    assert float(sigma) == pytest.approx(2.4796389202210793, rel=1e-6)
    assert float(sigma) == pytest.approx(np.linalg.norm(W, 2), rel=1e-6)


def test_the_gradient_flows_through_sigma_with_the_vectors_held():
    """At the singular vectors the gradient of sigma in W is their outer product."""
    left, _, right = np.linalg.svd(W)
    slope = jax.grad(lambda w: spectral.power_iteration(w, jnp.asarray(right[0]))[0])(W)
    np.testing.assert_allclose(slope, np.outer(left[:, 0], right[0]), atol=1e-5)


LAYERS = {
    "linear": (spectral.Linear(4, NORMAL), jnp.ones((2, 3)), "kernel"),
    "conv": (spectral.Conv(4, 3, NORMAL), jnp.ones((2, 5, 5, 3)), "kernel"),
    "embed": (spectral.Embed(6, 4, NORMAL), jnp.asarray([1, 5]), "embedding"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_pass_in_training_moves_the_vector_once_and_one_in_evaluation_does_not(name):
    layer, x, weight = LAYERS[name]
    variables = layer.init(jax.random.key(0), x, True)
    matrix = variables["params"][weight]
    matrix = matrix.T if name == "embed" else matrix.reshape(-1, matrix.shape[-1])
    sigma, moved = spectral.power_iteration(matrix, variables["spectral"]["u"])
    out, after = layer.apply(variables, x, True, mutable=["spectral"])
    np.testing.assert_allclose(after["spectral"]["u"], moved, rtol=1e-5)
    np.testing.assert_allclose(after["spectral"]["sigma"], sigma, rtol=1e-5)
    evaluated, same = layer.apply(variables, x, False, mutable=["spectral"])
    np.testing.assert_array_equal(out, evaluated)
    np.testing.assert_array_equal(same["spectral"]["u"], variables["spectral"]["u"])
    assert spectral.largest(after["spectral"]) == after["spectral"]["sigma"]


@pytest.mark.parametrize("name", LAYERS)
def test_the_output_does_not_know_the_scale_of_the_weight(name):
    layer, x, weight = LAYERS[name]
    variables = layer.init(jax.random.key(0), x, True)
    larger = {**variables, "params": {**variables["params"], weight: 7 * variables["params"][weight]}}
    out, same = layer.apply(variables, x, False), layer.apply(larger, x, False)
    np.testing.assert_allclose(out, same, rtol=1e-4, atol=1e-5)
