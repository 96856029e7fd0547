import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.models.patches import patchify, unpatchify
from vitjax.models.positions import sincos2d


def test_sincos2d_is_the_original_codes_on_a_grid_of_two_by_two():
    s, c, s1, c1 = 0.8414709848078965, 0.5403023058681398, 0.009999833334166664, 0.9999500004166653
    wanted = [
        [0, 0, 1, 1, 0, 0, 1, 1],
        [s, s1, c, c1, 0, 0, 1, 1],
        [0, 0, 1, 1, s, s1, c, c1],
        [s, s1, c, c1, s, s1, c, c1],
    ]
    np.testing.assert_allclose(sincos2d(2, 2, 8), wanted, atol=1e-7)


def test_sincos2d_is_the_original_codes_for_vit_b():
    table = sincos2d(14, 14, 768)
    wanted = {
        (1, 1): 0.8152506496736778,
        (14, 384): 0.8414709848078965,
        (15, 191): 0.00010491397272116734,
        (195, 192): 0.9074467814501962,
        (195, 500): 0.04978484053312651,
        (100, 300): 0.9999367551134605,
    }
    for place, value in wanted.items():
        assert table[place] == pytest.approx(value, abs=1e-6)
    assert table.astype(np.float64).sum() == pytest.approx(69594.49385916878, rel=1e-6)


def test_sincos2d_of_a_width_that_four_does_not_divide_is_refused():
    with pytest.raises(UserError, match="four divides, not 18; try 16"):
        sincos2d(2, 2, 18)


def test_patches_are_row_major_and_their_pixels_row_column_channel():
    images = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    patches = patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    np.testing.assert_array_equal(patches[1, 5], images[1, 2:4, 4:6].reshape(-1))


def test_unpatchify_undoes_patchify():
    images = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    np.testing.assert_array_equal(unpatchify(patchify(images, 2), 4, 6, 2), images)


def test_a_patch_that_does_not_divide_the_picture_is_refused_with_one_that_does():
    match = r"config.model.patch_px=15 must divide data.size_px=224; try 14 or 16"
    with pytest.raises(UserError, match=match):
        patchify(jnp.zeros((1, 224, 224, 3)), 15)
