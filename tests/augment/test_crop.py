"""Crops, resizes and flips on the device against Pillow, jax.image and the distributions they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from vitjax import augment
from vitjax.augment import crop
from vitjax.errors import UserError

PIL_METHOD = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
JAX_METHOD = {"bicubic": "cubic", "bilinear": "linear"}
AREA, ASPECT = (0.2, 1.0), (3 / 4, 4 / 3)

# Compiled once a shape: eager operations would each be compiled alone.
random_resized_crop = jax.jit(
    augment.random_resized_crop, static_argnames=("size_px", "area", "aspect", "method", "flip")
)
center_crop = jax.jit(augment.center_crop, static_argnames=("size_px", "crop_fraction", "method", "aspect"))
resize_weights = jax.jit(augment.resize_weights, static_argnames=("size_px", "canvas", "method"))
crop_box = jax.jit(crop._crop_box, static_argnames=("area", "aspect"))


def config_of(size_px=16, crop="device", fraction=0.875, eval_aspect="keep", **augment_settings):
    data = dict(size_px=size_px, resize="bicubic", crop=crop, eval_crop_fraction=fraction, eval_aspect=eval_aspect)
    data |= dict(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    return ConfigDict(
        dict(data=data, augment=dict(crop_area=AREA, crop_aspect=ASPECT, flip=0.5, views={}) | augment_settings)
    )


def picture(height, width, seed=0):
    """Smooth colours with an edge and some grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 10
    waves = np.stack([np.sin(y + 2 * x), np.cos(2 * y - x), np.sin(x * y / 3)], -1) * 80 + 128
    waves[height // 3 : height // 2] += 60
    return np.clip(waves + rng.normal(0, 8, waves.shape), 0, 255).astype(np.uint8)


def canvases(pictures, side):
    """A batch of pictures at the top left of canvases filled with noise, and their sizes."""
    images = np.random.default_rng(9).integers(0, 256, (len(pictures), side, side, 3), dtype=np.uint8)
    for image, p in zip(images, pictures):
        image[: p.shape[0], : p.shape[1]] = p
    return jnp.asarray(images), jnp.asarray([p.shape[:2] for p in pictures], jnp.int32)


def keys_of(n, seed=0):
    return jax.jit(augment.row_keys)(jax.random.key(seed), jnp.arange(n))


def column(*numbers):
    return jnp.asarray(numbers, jnp.int32)


@pytest.mark.parametrize("method", augment.METHODS)
@pytest.mark.parametrize(
    "start, length, size_px", [(0, 40, 40), (3, 30, 12), (5, 9, 24), (20, 20, 7), (39, 1, 8)]
)
def test_weights_equal_those_of_jax_image(method, start, length, size_px):
    weights = resize_weights(column(start), column(length), size_px, 40, method)[0]
    x = jax.random.normal(jax.random.key(1), (40, 1))
    scale = jnp.asarray([size_px / length, 1.0])
    cut = x[start : start + length]
    wanted = jax.image.scale_and_translate(
        cut, (size_px, 1), (0, 1), scale, jnp.zeros(2), JAX_METHOD[method], antialias=True
    )
    np.testing.assert_allclose(weights @ x, wanted, atol=2e-6)


def test_antialiased_resize_equals_the_published_numbers():
    """torch's F.interpolate(antialias=True) of sin(1 + k), 6 x 6 to 3 x 3."""
    x = np.sin(1 + np.arange(36)).reshape(6, 6)
    wanted = {
        "bicubic": [
            [0.8620313753661197, -0.16229320208561712, -0.7557320729025816],
            [0.6804309996531095, 0.2756350085304121, -0.8609672683617471],
            [0.30474039100496386, 0.6349394306388343, -0.720614979195652],
        ],
        "bilinear": [
            [0.7574764451103727, -0.10344069651899881, -0.7000337638352954],
            [0.6235955564840464, 0.2245927138324412, -0.7483163686163581],
            [0.3447417961621878, 0.5004130345496948, -0.6226311319542444],
        ],
    }
    for method, numbers in wanted.items():
        weights = resize_weights(column(0), column(6), 3, 6, method)[0]
        np.testing.assert_allclose(weights @ x @ weights.T, numbers, atol=1e-6)


@pytest.mark.parametrize("method", augment.METHODS)
def test_random_crop_equals_crop_and_resize_of_pillow(method):
    pictures = [picture(48, 48), picture(40, 20, 1), picture(17, 48, 2), picture(5, 7, 3)]
    images, sizes = canvases(pictures, 48)
    keys = keys_of(4)
    got = random_resized_crop(keys, images, sizes, 16, AREA, ASPECT, method)
    boxes = crop_box(keys, sizes, AREA, ASPECT)
    for i, p in enumerate(pictures):
        top, left, height, width = (int(v[i]) for v in boxes)
        cut = Image.fromarray(p[top : top + height, left : left + width])
        wanted = np.asarray(cut.resize((16, 16), PIL_METHOD[method]), np.float32)
        assert np.abs(got[i] * 255 - wanted).max() < 1.51


@pytest.mark.parametrize("method", augment.METHODS)
@pytest.mark.parametrize("fraction", [0.875, 1.0])
def test_center_crop_equals_resize_and_crop_of_pillow(method, fraction):
    pictures = [picture(64, 64), picture(64, 40, 1), picture(33, 61, 2), picture(9, 13, 3), picture(64, 1, 4)]
    images, sizes = canvases(pictures, 64)
    got = center_crop(images, sizes, 28, fraction, method)
    resized = int(28 / fraction)
    for i, p in enumerate(pictures):
        height, width = (resized * side // min(p.shape[:2]) for side in p.shape[:2])
        whole = np.asarray(Image.fromarray(p).resize((width, height), PIL_METHOD[method]), np.float32)
        top, left = round((height - 28) / 2), round((width - 28) / 2)
        assert np.abs(got[i] * 255 - whole[top : top + 28, left : left + 28]).max() < 1.51


@pytest.mark.parametrize("fraction", [0.875, 1.0])
def test_a_squashed_picture_equals_that_of_pillow(fraction):
    pictures = [picture(64, 40), picture(9, 61, 1), picture(64, 1, 2)]
    images, sizes = canvases(pictures, 64)
    got, resized = center_crop(images, sizes, 28, fraction, aspect="squash"), int(28 / fraction)
    for i, p in enumerate(pictures):
        whole = np.asarray(Image.fromarray(p).resize((resized, resized), Image.Resampling.BICUBIC), np.float32)
        first = (resized - 28) // 2
        assert np.abs(got[i] * 255 - whole[first : first + 28, first : first + 28]).max() < 1.51


def test_whole_picture_of_the_right_size_is_untouched():
    images, sizes = canvases([picture(32, 32)], 32)
    got = center_crop(images, sizes, 32, 1.0)
    np.testing.assert_allclose(got[0] * 255, images[0], atol=1e-3)


def test_nothing_outside_the_picture_is_read():
    pictures = [picture(20, 13, i) for i in range(8)]
    images, sizes = canvases(pictures, 32)
    inside = (jnp.arange(32) < 20)[:, None] & (jnp.arange(32) < 13)
    other = jnp.where(inside[..., None], images, 255 - images)
    for view in (
        lambda x: random_resized_crop(keys_of(8), x, sizes, 16, AREA, ASPECT),
        lambda x: center_crop(x, sizes, 16, 0.875),
    ):
        np.testing.assert_array_equal(view(images), view(other))


def test_padded_row_without_a_size_gives_finite_numbers():
    images, sizes = canvases([picture(8, 8), picture(8, 8)], 8)
    sizes = sizes.at[1].set(0)
    assert np.isfinite(center_crop(images, sizes, 8, 0.875)).all()
    assert np.isfinite(random_resized_crop(keys_of(2), images, sizes, 8, AREA, ASPECT)).all()


def boxes_of(n, height, width, area=AREA, aspect=ASPECT):
    sizes = jnp.tile(jnp.asarray([[height, width]], jnp.int32), (n, 1))
    return [np.asarray(v) for v in crop_box(keys_of(n), sizes, area, aspect)]


def test_boxes_have_the_area_and_aspect_that_were_asked_for():
    top, left, height, width = boxes_of(4000, 400, 500)
    area, log_aspect = height * width / (400 * 500), np.log(width / height)
    assert ((0.199 < area) & (area <= 1.0)).all()
    assert (np.abs(log_aspect) < np.log(4 / 3) + 0.01).all()
    # Small boxes, which always fit, show the uniform laws; large ones are thinned by the tries.
    small = area < 0.55
    quartiles = np.quantile(area[small], [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [0.2875, 0.375, 0.4625], atol=0.015)
    np.testing.assert_allclose(np.quantile(log_aspect[small], [0.25, 0.75]), [-0.1438, 0.1438], atol=0.02)
    place = (top / np.maximum(400 - height, 1))[small]
    np.testing.assert_allclose(np.quantile(place, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.03)
    assert abs(np.corrcoef(place, (left / np.maximum(500 - width, 1))[small])[0, 1]) < 0.06


def test_boxes_follow_the_law_of_torchvision():
    """Against the reference's own loop of tries, here with numpy: the same quartiles."""
    rng, rows = np.random.default_rng(0), []
    for _ in range(4000):
        for _ in range(10):
            target = 32 * 60 * rng.uniform(*AREA)
            ratio = np.exp(rng.uniform(*np.log(ASPECT)))
            w, h = round(np.sqrt(target * ratio)), round(np.sqrt(target / ratio))
            if w <= 60 and h <= 32:
                rows.append((rng.integers(0, 32 - h + 1), rng.integers(0, 60 - w + 1), h, w))
                break
        else:
            w = round(32 * 4 / 3)
            rows.append((0, (60 - w) // 2, 32, w))
    quantiles = [0.1, 0.25, 0.5, 0.75, 0.9]
    for got, wanted in zip(boxes_of(4000, 32, 60), np.array(rows).T):
        np.testing.assert_allclose(np.quantile(got, quantiles), np.quantile(wanted, quantiles), atol=1.01)
        assert abs(got.mean() - wanted.mean()) < 0.6


def test_boxes_stay_inside_the_picture():
    for height, width in ((1, 1), (3, 200), (200, 3), (31, 32)):
        top, left, h, w = boxes_of(500, height, width)
        assert (top >= 0).all() and (left >= 0).all() and (h >= 1).all() and (w >= 1).all()
        assert (top + h <= height).all() and (left + w <= width).all()


def test_picture_in_which_no_box_fits_gives_its_middle():
    top, left, height, width = boxes_of(50, 10, 1000, area=(0.9, 1.0))
    assert set(zip(top, left, height, width)) == {(0, (1000 - 13) // 2, 10, 13)}


def test_flip_in_the_weights_equals_flip_of_the_picture():
    images, sizes = canvases([picture(24, 30, i) for i in range(16)], 32)
    keys = keys_of(16)
    folded = random_resized_crop(keys, images, sizes, 16, AREA, ASPECT, flip=0.5)
    plain = random_resized_crop(keys, images, sizes, 16, AREA, ASPECT)
    np.testing.assert_allclose(folded, augment.random_flip(keys, plain, 0.5), atol=1e-5)
    changed = np.abs(folded - plain).max((1, 2, 3)) > 1e-3
    assert 2 <= changed.sum() <= 14


def test_flip_has_its_probability():
    keys = keys_of(2000)
    assert abs(float(jnp.mean(crop.mirrored(keys, 0.3))) - 0.3) < 0.04
    images = jnp.arange(2 * 2 * 3 * 3.0).reshape(2, 2, 3, 3)
    np.testing.assert_array_equal(augment.random_flip(keys[:2], images, 1.0), images[:, :, ::-1])
    np.testing.assert_array_equal(augment.random_flip(keys[:2], images, 0.0), images)


def test_view_of_a_row_does_not_depend_on_its_batch():
    images, sizes = canvases([picture(24, 30, i) for i in range(8)], 32)
    batch = {"image": images, "size": sizes, "row": jnp.arange(8)}
    view, key = jax.jit(augment.train_view(config_of())), jax.random.key(3)
    whole = view(batch, key)["image"]
    part = view({k: v[5:7] for k, v in batch.items()}, key)["image"]
    np.testing.assert_allclose(whole[5:7], part, atol=1e-6)
    assert np.abs(view(batch, jax.random.key(4))["image"] - whole).max() > 0.1


def test_train_view_is_normalised_and_keeps_the_rest_of_the_batch():
    images, sizes = canvases([np.full((24, 24, 3), 255, np.uint8)] * 2, 24)
    out = jax.jit(augment.train_view(config_of()))(
        {"image": images, "size": sizes, "row": jnp.arange(2), "label": jnp.ones(2)}, jax.random.key(0)
    )
    assert set(out) == {"image", "size", "row", "label"} and out["image"].dtype == jnp.float32
    np.testing.assert_allclose(out["image"][0, 0, 0], [2.5, 2.4, 7 / 3], rtol=1e-5)


def test_crop_on_the_host_is_only_flipped():
    images, sizes = canvases([picture(16, 16, i) for i in range(8)], 16)
    view = jax.jit(augment.train_view(config_of(crop="host")))
    out = view({"image": images, "size": sizes, "row": jnp.arange(8)}, jax.random.key(0))["image"]
    shown = np.asarray(augment.to_uint8(out, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)))
    flipped = [(a == b[:, ::-1]).all() for a, b in zip(shown, np.asarray(images))]
    assert all(f or (a == b).all() for f, a, b in zip(flipped, shown, np.asarray(images)))
    assert 0 < sum(flipped) < 8


def test_eval_view_takes_pictures_of_any_size():
    images, sizes = canvases([picture(4, 6), picture(32, 20)], 32)
    out = jax.jit(augment.eval_view(config_of()))({"image": images, "size": sizes})
    assert out.shape == (2, 16, 16, 3) and out.dtype == jnp.float32 and np.isfinite(out).all()


def test_overshoot_of_the_cubic_kernel_is_cut_off():
    edge = np.zeros((8, 8, 3), np.uint8)
    edge[:, 4:] = 255
    images, sizes = canvases([edge], 8)
    out = center_crop(images, sizes, 32, 1.0)
    assert out.min() == 0 and out.max() == 1


@pytest.mark.parametrize(
    "setting, value",
    [
        ("augment.crop_area", (0.5, 0.2)),
        ("augment.crop_area", (0.0, 1.0)),
        ("augment.crop_area", (0.2, 1.5)),
        ("augment.crop_aspect", (0.0, 1.0)),
        ("augment.crop_aspect", (1.0,)),
        ("augment.flip", 1.5),
        ("data.crop", "hots"),
        ("data.resize", "nearest"),
        ("data.std", (0.0, 0.1, 0.1)),
    ],
)
def test_train_view_refuses_bad_settings(setting, value):
    config = config_of()
    section, key = setting.split(".")
    with config.ignore_type():
        config[section][key] = value
    with pytest.raises(UserError, match=f"config.{setting}="):
        augment.train_view(config)


def test_eval_view_refuses_a_bad_crop_fraction():
    with pytest.raises(UserError, match=r"config\.data\.eval_crop_fraction=1\.2"):
        augment.eval_view(config_of(fraction=1.2))


def test_eval_view_squashes_where_the_config_says_so_and_refuses_what_it_does_not_know():
    images, sizes = canvases([picture(16, 32)], 32)
    batch, kept = {"image": images, "size": sizes}, jax.jit(augment.eval_view(config_of(fraction=1.0)))
    squashed = jax.jit(augment.eval_view(config_of(fraction=1.0, eval_aspect="squash")))(batch)
    wanted = augment.normalize(center_crop(images, sizes, 16, 1.0, aspect="squash"), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    np.testing.assert_allclose(squashed, wanted, atol=1e-5)
    assert np.abs(squashed - kept(batch)).max() > 0.1
    with pytest.raises(UserError, match=r"config\.data\.eval_aspect='stretch' must be one of keep, squash"):
        augment.eval_view(config_of(eval_aspect="stretch"))
