import jax
import jax.numpy as jnp
import numpy as np

from vitjax.vectors import normalised


def test_vectors_get_length_one_whatever_their_length():
    x = jnp.asarray([[3.0, 4.0], [3e-10, 4e-10], [3e15, 4e15]])
    np.testing.assert_allclose(normalised(x), np.tile([0.6, 0.8], (3, 1)), rtol=1e-6)


def test_bfloat16_is_normalised_in_float32():
    found = normalised(jnp.ones((1, 1000), jnp.bfloat16))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.full((1, 1000), 1000**-0.5), rtol=1e-6)


def test_the_gradient_is_at_right_angles_and_zero_for_a_vector_of_zeros():
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
    gradient = jax.jit(jax.grad(lambda x: normalised(x)[:, 0].sum()))(x)
    # d(x/|x|)/dx = (I - u u^T) / |x|
    np.testing.assert_allclose(gradient, [[(1 - 0.36) / 5, -0.48 / 5], [0, 0]], rtol=1e-5)
    np.testing.assert_array_equal(normalised(x)[1], jnp.zeros(2))
