import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import wave

from vitjax.losses import redundancy

# Compiled: operation by operation the tests would take ten times as long.
barlow_twins = jax.jit(redundancy.barlow_twins)
vicreg = jax.jit(redundancy.vicreg, static_argnames="halved")

K = np.arange(24)
A = jnp.asarray(wave(1, (6, 4)) + 0.3 * np.cos(K**2).reshape(6, 4), jnp.float32)
B = A + jnp.asarray(0.4 * wave(30, (6, 4)), jnp.float32)


def test_barlow_twins_is_the_golden_one():
    assert barlow_twins(A, B) == pytest.approx(0.056661577053649145, rel=1e-5)
    assert barlow_twins(A, B, 0.0) == pytest.approx(0.03224474663109954, rel=1e-5)


def test_gradient_of_barlow_twins_is_the_golden_one():
    first, second = jax.jit(jax.grad(barlow_twins, (0, 1)))(A, B)
    row = [0.0019050033426067149, -0.004727431352386991, -0.04123719424236344, -0.004232750210347969]
    np.testing.assert_allclose(first[0], row, rtol=1e-4, atol=1e-6)
    assert jnp.linalg.norm(first) == pytest.approx(0.1346178081343636, rel=1e-5)
    assert jnp.linalg.norm(second) == pytest.approx(0.17585565357383723, rel=1e-5)


def test_scale_and_shift_of_a_dimension_do_not_matter_to_barlow_twins():
    scale, shift = jnp.asarray([2.0, 30.0, 5.0, 100.0]), jnp.asarray([1.0, -7.0, 0.0, 3.0])
    np.testing.assert_allclose(barlow_twins(scale * A + shift, B), barlow_twins(A, B), rtol=1e-3)


@pytest.mark.parametrize(
    "halved, loss, variance",
    [(True, 10.519202554408235, 0.3125715440699356), (False, 18.333491156156626, 0.6251430881398712)],
)
def test_vicreg_is_the_golden_one_of_code_and_paper(halved, loss, variance):
    terms = vicreg(A, B, halved=halved)
    wanted = {
        "loss": loss,
        "invariance": 0.08089517101745672,
        "variance": variance,
        "covariance": 0.6825346772234259,
    }
    assert terms == {name: pytest.approx(value, rel=1e-5) for name, value in wanted.items()}


def test_gradient_of_vicreg_is_the_golden_one():
    first, second = jax.jit(jax.grad(lambda a, b: vicreg(a, b, halved=True)["loss"], (0, 1)))(A, B)
    row = [0.3992056600926591, -0.23350783199107628, -0.47023318041908185, -0.36937654070931203]
    np.testing.assert_allclose(first[0], row, rtol=1e-4)
    assert jnp.linalg.norm(first) == pytest.approx(2.0088790301429813, rel=1e-5)
    assert jnp.linalg.norm(second) == pytest.approx(4.651779770476965, rel=1e-5)


def test_a_collapsed_batch_costs_the_whole_variance_term():
    """1 - sqrt(1e-4) a view, times 25."""
    same = jnp.ones((6, 4))
    assert vicreg(same, same, halved=True)["loss"] == pytest.approx(25 * 0.99, rel=1e-5)
    assert np.all(np.isfinite(jax.jit(jax.grad(lambda a: vicreg(a, a, halved=True)["loss"]))(same)))


def test_weights_are_of_their_own_terms():
    terms = vicreg(A, B, 2.0, 3.0, 5.0, halved=False)
    wanted = 2 * terms["invariance"] + 3 * terms["variance"] + 5 * terms["covariance"]
    np.testing.assert_allclose(terms["loss"], wanted, rtol=1e-6)
