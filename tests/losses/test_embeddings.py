import jax
import jax.numpy as jnp
import numpy as np

from vitjax.losses.embeddings import counted, mean_of


def test_what_does_not_count_is_in_no_mean_and_in_no_gradient():
    x, valid = jnp.asarray([[1.0, 2.0], [jnp.nan, jnp.inf], [3.0, 4.0]]), jnp.asarray([True, False, True])
    np.testing.assert_allclose(mean_of(x, valid), [2.0, 3.0])
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sqrt(counted(x, valid) + 1))))(x)
    np.testing.assert_array_equal(gradient[1], jnp.zeros(2))


def test_the_mean_of_nothing_is_zero():
    assert mean_of(jnp.ones(3), jnp.zeros(3, bool)) == 0
