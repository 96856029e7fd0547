import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import wave

from vitjax.losses.reconstruction import denormalise_patches, masked_reconstruction, normalise_patches
from vitjax.models.patches import patchify

IMAGE = jnp.asarray(wave(1, (1, 8, 8, 3)), jnp.float32)
PRED = jnp.asarray(0.5 * wave(200, (1, 4, 48)), jnp.float32)
MASK = jnp.asarray([[1.0, 0.0, 1.0, 1.0]])


def test_the_second_patch_starts_at_the_fifth_pixel_of_the_first_row():
    first = [
        0.4201670368266409,
        0.9906073556948704,
        0.6502878401571168,
        -0.2879033166650653,
        -0.9613974918795568,
    ]
    np.testing.assert_allclose(patchify(IMAGE, 4)[0, 1, :5], first, atol=1e-6)


@pytest.mark.parametrize("norm_pix, wanted", [(True, 1.157128467117806), (False, 0.6605885742789328)])
def test_loss_is_the_golden_one(norm_pix, wanted):
    target = patchify(IMAGE, 4)
    target = normalise_patches(target) if norm_pix else target
    assert masked_reconstruction(PRED, target, MASK) == pytest.approx(wanted, rel=1e-5)


def test_gradient_is_the_golden_one():
    target = normalise_patches(patchify(IMAGE, 4))
    gradient = jax.grad(masked_reconstruction)(PRED, target, MASK)
    first = [-0.021975102681286943, -0.01764974048705681, 0.003210066652085983, 0.02142590825234291]
    np.testing.assert_allclose(gradient.reshape(-1)[:4], first, rtol=1e-4)
    assert jnp.linalg.norm(gradient) == pytest.approx(0.17928317662273574, rel=1e-5)


def test_patches_that_are_seen_change_nothing():
    target = patchify(IMAGE, 4)
    changed = PRED.at[0, 1].set(1e3)
    assert masked_reconstruction(changed, target, MASK) == masked_reconstruction(PRED, target, MASK)


def test_the_mean_is_over_the_removed_patches_of_the_whole_batch():
    mask = jnp.asarray([[1.0, 0.0], [1.0, 1.0]])
    error = jnp.asarray([[[1.0], [9.0]], [[2.0], [3.0]]])
    assert masked_reconstruction(error, jnp.zeros_like(error), mask) == pytest.approx((1 + 4 + 9) / 3)


def test_an_empty_mask_gives_zero():
    assert masked_reconstruction(PRED, patchify(IMAGE, 4), jnp.zeros((1, 4))) == 0


def test_the_variance_is_unbiased():
    np.testing.assert_allclose(
        normalise_patches(jnp.asarray([[[0.0, 2.0]]])), [[[-(0.5**0.5), 0.5**0.5]]], rtol=1e-5
    )


def test_denormalise_undoes_normalise():
    target = patchify(IMAGE, 4)
    np.testing.assert_allclose(denormalise_patches(normalise_patches(target), target), target, atol=1e-5)
