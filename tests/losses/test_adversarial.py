"""The losses of the game. The golden numbers are from formulas in float64, and BigGAN's own regularisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import wave

from vitjax.losses import adversarial

REAL, FAKE = (jnp.asarray(2 * wave(start, (6,)), jnp.float32) for start in (1, 11))


@pytest.mark.parametrize(
    "name, discriminator, generator",
    [
        ("hinge", 2.5423937253745628, -0.07886526382080816),
        ("non_saturating", 1.8965779864501444, 0.8741568426012981),
    ],
)
def test_golden_values(name, discriminator, generator):
    loss = adversarial.LOSSES[name]
    np.testing.assert_allclose(loss.real(REAL).mean() + loss.fake(FAKE).mean(), discriminator, rtol=1e-6)
    np.testing.assert_allclose(loss.generator(FAKE).mean(), generator, rtol=1e-5)


def test_wasserstein_is_the_difference_of_the_means():
    loss = adversarial.WASSERSTEIN
    found = loss.real(REAL).mean() + loss.fake(FAKE).mean()
    np.testing.assert_allclose(found, np.mean(FAKE) - np.mean(REAL), rtol=1e-5)
    np.testing.assert_allclose(loss.generator(FAKE), -FAKE)


@pytest.mark.parametrize("name", adversarial.LOSSES)
def test_the_players_pull_the_logit_of_a_made_picture_in_opposite_directions(name):
    loss = adversarial.LOSSES[name]
    slope = {side: float(jax.grad(getattr(loss, side))(0.3)) for side in ("real", "fake", "generator")}
    assert slope["fake"] > 0 > slope["generator"] and slope["real"] < 0


def test_a_losing_generator_still_has_a_gradient():
    assert float(jax.grad(adversarial.NON_SATURATING.generator)(-20.0)) == pytest.approx(-1.0, abs=1e-6)


def test_r1_is_half_the_squared_slope():
    slopes = jnp.arange(24.0).reshape(2, 2, 2, 3)
    np.testing.assert_allclose(adversarial.r1_penalty(slopes), [506 / 2, 3818 / 2])


def test_orthogonal_gradient_is_the_authors():
    expected = [
        [4.888929067218667, 3.771818412031006, -0.8130846965461517, -4.650441484850972, -4.212203818593518],
        [
            0.4035900633935552,
            0.8681442875620606,
            0.5345306573985141,
            -0.2905279940628009,
            -0.8484765476212675,
        ],
        [-4.670486634571086, -4.285439709940616, 0.03962072069147291, 4.328254043440136, 4.637510559416137],
    ]
    found = adversarial.orthogonal_gradient(jnp.asarray(wave(1, (3, 5)), jnp.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_more_rows_than_columns_have_the_same_orthogonal_gradient():
    w = np.random.default_rng(0).normal(size=(40, 3))
    products = w @ w.T
    np.fill_diagonal(products, 0)
    found = adversarial.orthogonal_gradient(jnp.asarray(w, jnp.float32))
    np.testing.assert_allclose(found, 2 * products @ w, rtol=1e-4, atol=1e-4)


def test_orthogonal_rows_of_any_length_have_no_gradient():
    w = jnp.diag(jnp.asarray([1.0, 5.0, 0.1])) @ jnp.eye(3, 4)
    np.testing.assert_allclose(adversarial.orthogonal_gradient(w), 0)
