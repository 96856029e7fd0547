"""Augmentation with a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import augment, diff_augment
from vitjax.errors import UserError

IMAGES = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3), minval=-1, maxval=1)
ALL = tuple(diff_augment.OPERATIONS)


def keys(seed=0):
    return augment.row_keys(jax.random.key(seed), jnp.arange(4))


@pytest.mark.parametrize("name", ALL)
def test_each_picture_is_changed_by_its_own_draw_and_passes_a_gradient(name):
    operation = jax.jit(diff_augment.make((name,)))
    out = operation(IMAGES, keys())
    assert out.shape == IMAGES.shape
    np.testing.assert_allclose(operation(IMAGES[::-1], keys()[::-1]), out[::-1], atol=1e-6)
    same = jnp.broadcast_to(IMAGES[:1], IMAGES.shape)
    assert np.ptp(operation(same, keys()), axis=0).max() > 0.1
    slope = jax.grad(lambda x: operation(x, keys()).sum())(IMAGES)
    assert jnp.all(jnp.any(slope != 0, axis=(1, 2, 3)))


def test_colour_keeps_the_contents():
    """It is one affine map of a picture's colours: grey differences are all scaled alike."""
    grey = jnp.broadcast_to(IMAGES[..., :1], IMAGES.shape)
    out = diff_augment.make(("colour",))(grey, keys())
    for before, after in zip(grey[..., 0], out[..., 0]):
        slope = np.polyfit(before.reshape(-1), after.reshape(-1), 1)[0]
        np.testing.assert_allclose(after - after.mean(), slope * (before - before.mean()), atol=1e-5)
        assert 0.5 <= slope <= 1.5


def test_translation_moves_at_most_an_eighth_and_fills_with_grey():
    out = np.asarray(diff_augment.make(("translation",))(1.0 + 0 * IMAGES, keys()))
    shown = (out == 1).sum((1, 2, 3)) / 3
    assert ((out == 0) | (out == 1)).all()
    assert (shown >= 14 * 14).all() and (shown < 256).any()


def test_cutout_takes_a_square_of_half_the_side_or_what_of_it_lies_inside():
    out = np.asarray(diff_augment.make(("cutout",))(1.0 + 0 * IMAGES, keys()))
    for gone in (out == 0)[..., 0]:
        height, width = gone.any(1).sum(), gone.any(0).sum()
        assert 4 <= height <= 8 and 4 <= width <= 8 and gone.sum() == height * width


def test_nothing_asked_for_is_nothing_done():
    assert diff_augment.make(())(IMAGES, keys()) is IMAGES


@pytest.mark.parametrize("names", [("color",), "colors"])
def test_an_unknown_operation_is_refused(names):
    with pytest.raises(
        UserError, match=r"diff_augment=.*is not known; choose a tuple of colour, translation, cutout"
    ):
        diff_augment.make(names)
