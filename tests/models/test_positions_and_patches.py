import jax.numpy as jnp
import numpy as np
import pytest
from golden import wave

from vitjax.errors import UserError
from vitjax.models.patches import patchify, unpatchify
from vitjax.models.positions import cubic, resampled, sincos2d


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


def test_the_row_first_form_is_that_of_moco_v3():
    table = sincos2d(14, 14, 768, row_first=True)
    wanted = {
        (1, 1): 0.0,
        (14, 0): 0.8414709848078965,
        (14, 384): 0.0,
        (15, 191): 0.00010491397272116734,
        (100, 300): 0.9992253420097583,
        (100, 700): 0.9999863741895627,
    }
    for place, value in wanted.items():
        assert table[place] == pytest.approx(value, abs=1e-6)


# torch.nn.functional.interpolate(mode="bicubic", align_corners=False) of `wave`.
UP = [
    [0.9859060576571338, 1.0965921108841856, 1.0886467101686081, 0.5402170564731864, 0.0944045084839532],
    [0.12678617123824615, 0.09864525401462694, 0.04415106511538963, -0.03226295803701862, -0.08297318608427352],
    [-0.7373988044898276, -0.8841503776031726, -0.9589242746631385, -0.5576176715806157, -0.21418265565836145],
    [-0.016772245246054546, 0.03326281745953241, 0.09891266585701644, 0.11545499588640218, 0.11492750264261418],
    [0.7558767821208865, 0.9918272710239764, 1.1763933686668882, 0.7769113218241652, 0.41150853603463905],
]
DOWN = [
    [0.9254694163875541, -0.24627855726059839, -0.7144202544392491],
    [0.6474559461132663, 0.35405070567745184, -0.9508607798575431],
    [0.14163814519092321, 0.8298088923801256, -0.852745410322265],
]


@pytest.mark.parametrize("side, wanted", [(3, UP), (6, DOWN)])
def test_cubic_resampling_is_that_of_torch_without_antialiasing(side, wanted):
    matrix = cubic(side, len(wanted))
    np.testing.assert_allclose(matrix @ wave(1, (side, side)) @ matrix.T, wanted, atol=1e-12)


def test_positions_are_resampled_row_by_row_and_channel_by_channel():
    grid = np.stack([wave(1, (3, 3)), 2 * wave(1, (3, 3)).T], axis=-1)
    found = resampled(jnp.asarray(grid.reshape(1, 9, 2), jnp.float32), 5, 5).reshape(5, 5, 2)
    np.testing.assert_allclose(found, np.stack([UP, 2 * np.transpose(UP)], axis=-1), atol=1e-5)


def test_positions_of_the_same_grid_are_not_touched():
    position = jnp.asarray(wave(1, (1, 9, 2)), jnp.float32)
    assert resampled(position, 3, 3) is position


def test_positions_of_no_square_grid_are_not_resampled():
    with pytest.raises(UserError, match="6 learned positions are of no square grid"):
        resampled(jnp.zeros((1, 6, 2)), 3, 3)


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
