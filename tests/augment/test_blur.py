"""Blur against the published numbers, Pillow, and a convolution that is written out."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter

from vitjax.augment import blur, draws

WAVE = (golden.wave(1, (1, 4, 4, 3)).transpose(0, 3, 1, 2) + 1) / 2
WAYS = {"products": blur._by_products, "taps": blur._by_taps}

gaussian_blur = jax.jit(blur.gaussian_blur, static_argnums=(2, 3))
random_blur = jax.jit(blur.random_blur, static_argnums=(2, 3, 4, 5))


def blurred(way, radius, edge, images, sigmas):
    images, sigmas = jnp.asarray(images, jnp.float32), jnp.asarray(sigmas, jnp.float32)
    return np.asarray(jax.jit(functools.partial(WAYS[way], radius, edge))(images, sigmas))


@pytest.mark.parametrize("way", WAYS)
def test_blur_equals_the_published_numbers(way):
    """Five taps, sigma 1 and zeros around, of (sin(1 + k) + 1) / 2 in 4 x 4 x 3: the first row and the third."""
    out = blurred(way, 2, "zero", WAVE, [1.0])[0].transpose(1, 2, 0)
    np.testing.assert_allclose(
        out[0],
        [
            [0.296941236, 0.314203362, 0.268684094],
            [0.340878540, 0.340888331, 0.332310902],
            [0.332088459, 0.322900630, 0.321663390],
            [0.231456231, 0.180197240, 0.189361465],
        ],
        atol=1e-6,
    )
    np.testing.assert_allclose(
        out[2],
        [
            [0.332992205, 0.407905920, 0.412616752],
            [0.450672822, 0.459990184, 0.457360591],
            [0.457174226, 0.444919892, 0.434574161],
            [0.381426844, 0.295634136, 0.242860706],
        ],
        atol=1e-6,
    )


def test_the_kernel_equals_the_published_numbers():
    """The first taps of 23 at sigma 2, as of a view of 224 px."""
    size = blur.published_kernel_px(224)
    kernel = blur._kernels(jnp.asarray([2.0]), size // 2, blur._offsets(size // 2))[0]
    assert size == len(kernel) == 23
    np.testing.assert_allclose(
        kernel[:3], [5.3848800554775906e-08, 7.43359762089135e-07, 7.991870604218873e-06], rtol=1e-5
    )
    assert [blur.published_kernel_px(size_px) for size_px in (32, 96)] == [3, 9]


@pytest.mark.parametrize("edge", blur.EDGES)
@pytest.mark.parametrize("way", WAYS)
def test_blur_equals_a_convolution_of_each_row_and_column(way, edge):
    images = np.random.default_rng(0).uniform(size=(3, 3, 9, 7))
    sigmas, radius = [0.3, 1.1, 2.0], 4
    out = blurred(way, radius, edge, images, sigmas)
    for image, sigma, got in zip(images, sigmas, out):
        kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        kernel /= kernel.sum()
        mode = "constant" if edge == "zero" else "edge"
        padded = np.pad(image, ((0, 0), (radius, radius), (radius, radius)), mode=mode)
        for axis in (1, 2):
            padded = np.apply_along_axis(np.convolve, axis, padded, kernel, "valid")
        np.testing.assert_allclose(got, padded, atol=1e-6)


def test_repeated_borders_keep_a_plain_picture_and_zeros_darken_its_border():
    plain = np.full((1, 3, 8, 8), 0.7)
    np.testing.assert_allclose(blurred("products", 8, "repeat", plain, [2.0]), plain, atol=1e-6)
    dark = blurred("products", 2, "zero", plain, [2.0])
    assert dark[0, 0, 0, 0] < 0.4 and abs(dark[0, 0, 4, 4] - 0.7) < 1e-6


def test_a_picture_that_is_spared_keeps_its_bits():
    images = jnp.asarray(np.random.default_rng(1).uniform(size=(64, 3, 6, 6)), jnp.float32)
    units = draws.units(draws.row_keys(jax.random.key(0), jnp.arange(64)))
    out = random_blur(units, images, 0.5, (0.5, 2.0), 5, "zero")
    spared = np.asarray((out == images).all((1, 2, 3)))
    np.testing.assert_array_equal(spared, ~np.asarray(draws.coin(units, draws.BLUR, 0.5)))
    assert 16 < spared.sum() < 48
    sigmas = draws.uniform(units, draws.SIGMA, 0.5, 2.0)
    assert sigmas.min() > 0.5 and sigmas.max() < 2.0 and np.std(sigmas) > 0.3
    wanted = gaussian_blur(images, sigmas, 5, "zero")
    np.testing.assert_allclose(np.asarray(out)[~spared], np.asarray(wanted)[~spared], atol=1e-6)


def test_long_kernels_with_repeated_borders_are_near_pillows_blur():
    """Pillow's is three box filters in 8 bits."""
    y, x = np.mgrid[:32, :32] / 5
    picture = np.clip(np.stack([np.sin(y + x), np.cos(y), np.sin(2 * x)], -1) * 90 + 128, 0, 255).astype(
        np.uint8
    )
    picture[10:20, 5:9] = 255
    wanted = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1.5)), np.float32)
    out = gaussian_blur(
        jnp.asarray(picture.transpose(2, 0, 1)[None] / 255, jnp.float32), jnp.asarray([1.5]), 17, "repeat"
    )
    off = np.abs(np.asarray(out[0]).transpose(1, 2, 0) * 255 - wanted)
    assert off.mean() < 1.0 and off.max() < 8
