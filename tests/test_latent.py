"""Latents, classes, and ways between latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import latent
from vitjax.errors import UserError

KEY = jax.random.key(0)


@pytest.mark.parametrize("truncation", [0.0, 0.5])
def test_a_latent_is_a_function_of_its_row_alone(truncation):
    whole = latent.draw(KEY, jnp.arange(6), 4, truncation)
    np.testing.assert_array_equal(
        latent.draw(KEY, jnp.asarray([5, 2]), 4, truncation), whole[jnp.asarray([5, 2])]
    )
    assert len(np.unique(np.asarray(whole))) == 24
    assert not np.array_equal(latent.draw(jax.random.key(1), jnp.arange(6), 4, truncation), whole)


def test_a_truncated_latent_stays_within_and_keeps_the_normals_shape():
    z = np.asarray(latent.draw(KEY, jnp.arange(1000), 8, 0.5))
    assert np.abs(z).max() <= 0.5 and np.abs(z).max() > 0.49
    # Of a normal within 0.5 the deviation is 0.2839; of a uniform it would be 0.2887, of a clipped normal 0.44.
    assert z.std() == pytest.approx(0.2839, abs=0.004)
    assert latent.draw(KEY, jnp.arange(1000), 8).std() == pytest.approx(1, abs=0.03)


def test_classes_are_equally_likely():
    counts = np.bincount(latent.draw_classes(KEY, jnp.arange(3000), 3), minlength=3)
    assert counts.sum() == 3000 and np.abs(counts - 1000).max() < 100


def test_a_way_begins_and_ends_where_it_should_and_keeps_its_length():
    a, b = jax.random.normal(KEY, (2, 64))
    way = latent.between(jnp.tile(a, (5, 1)), jnp.tile(b, (5, 1)), jnp.linspace(0, 1, 5))
    np.testing.assert_allclose(way[0], a, atol=1e-5)
    np.testing.assert_allclose(way[-1], b, atol=1e-5)
    lengths = np.linalg.norm(way, axis=-1)
    np.testing.assert_allclose(lengths, np.linspace(lengths[0], lengths[-1], 5), rtol=1e-5)


def test_a_way_from_a_latent_to_itself_stays_there():
    a = jax.random.normal(KEY, (1, 16))
    np.testing.assert_allclose(latent.between(a, a, jnp.asarray([0.3])), a, rtol=1e-4)


def test_a_negative_truncation_is_refused():
    with pytest.raises(UserError, match=r"truncation=-1.* must be 0 \(no truncation\) or above"):
        latent.checked_truncation(-1.0)
