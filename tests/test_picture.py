import numpy as np
import pytest
from PIL import Image

from vitjax import picture


def pictures(count, height, width, channels=3):
    shape = (count, height, width, channels)
    return np.random.default_rng(0).integers(0, 200, shape, np.uint8)


def test_grid_shows_every_pixel_of_every_picture_in_its_place():
    rows = [pictures(3, 70, 80), pictures(3, 70, 80)[::-1]]
    out, gap = picture.grid(rows), picture.GAP_PX
    assert out.shape == (2 * 70 + 3 * gap, 3 * 80 + 4 * gap, 3) and out.dtype == np.uint8
    for i, row in enumerate(rows):
        for j, expected in enumerate(row):
            top, left = gap + i * (70 + gap), gap + j * (80 + gap)
            np.testing.assert_array_equal(out[top : top + 70, left : left + 80], expected)
    assert (out[:gap] == 255).all() and (out[:, -gap:] == 255).all()


def test_small_pictures_are_enlarged_without_new_colours():
    row = pictures(1, 24, 24)
    out = picture.grid([row])[picture.GAP_PX : -picture.GAP_PX, picture.GAP_PX : -picture.GAP_PX]
    np.testing.assert_array_equal(out, row[0].repeat(3, 0).repeat(3, 1))


def test_lines_of_different_length_and_grey_pictures_share_a_grid():
    out = picture.grid([pictures(4, 64, 64), pictures(2, 64, 64, 1)])
    assert out.shape == (2 * 64 + 3 * picture.GAP_PX, 4 * 64 + 5 * picture.GAP_PX, 3)
    lower = out[-20]
    assert (lower[: 2 * 64] == lower[: 2 * 64, :1]).all() and (lower[-64:] == 255).all()


def test_floats_are_refused():
    with pytest.raises(TypeError, match="uint8"):
        picture.grid([np.zeros((1, 8, 8, 3))])


def test_png_reads_back_equal_and_leaves_nothing_beside_it(tmp_path):
    image = pictures(1, 9, 7)[0]
    path = picture.save_png(tmp_path / "new" / "grid.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]
