import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import wave

from vitjax.losses.classification import softmax_cross_entropy


def test_cross_entropy_is_the_golden_one():
    logits = jnp.asarray(2 * wave(1, (4, 5)), jnp.float32)
    losses = softmax_cross_entropy(logits, jnp.asarray([0, 3, 2, 4]))
    assert losses.shape == (4,)
    assert losses.mean() == pytest.approx(1.2040840413491876, rel=1e-6)


def test_equal_logits_cost_the_logarithm_of_the_number_of_classes():
    losses = softmax_cross_entropy(jnp.zeros((2, 7)), jnp.asarray([0, 6]))
    np.testing.assert_allclose(losses, np.log(7), rtol=1e-6)


def test_bfloat16_logits_are_reduced_in_float32():
    logits = jnp.asarray(wave(3, (2, 1000)), jnp.bfloat16)
    losses = softmax_cross_entropy(logits, jnp.asarray([1, 2]))
    assert losses.dtype == jnp.float32
    np.testing.assert_array_equal(
        losses, softmax_cross_entropy(logits.astype(jnp.float32), jnp.asarray([1, 2]))
    )


def test_adding_a_number_to_all_logits_changes_nothing():
    logits, labels = jnp.asarray(wave(1, (4, 5)), jnp.float32), jnp.asarray([0, 3, 2, 4])
    shifted = softmax_cross_entropy(logits + 100, labels)
    np.testing.assert_allclose(shifted, softmax_cross_entropy(logits, labels), atol=1e-5)


def test_gradient_is_probability_minus_target():
    logits, labels = jnp.asarray(wave(1, (2, 3)), jnp.float32), jnp.asarray([0, 2])
    gradient = jax.grad(lambda x: softmax_cross_entropy(x, labels).sum())(logits)
    np.testing.assert_allclose(gradient, jax.nn.softmax(logits) - jax.nn.one_hot(labels, 3), atol=1e-6)
