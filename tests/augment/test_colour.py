"""Colours against the published numbers, the conversions of Python's colorsys, and the laws of their draws."""

import colorsys

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_libraries

from vitjax.augment import colour, draws

WAVE = (golden.wave(1, (4, 4, 3)) + 1) / 2
NO_JITTER = dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)

random_jitter = jax.jit(colour.random_jitter, static_argnums=2)
adjusted = jax.jit(colour.adjusted, static_argnames="grey_mean")


def planes(*pictures):
    return jnp.asarray(np.stack(pictures).transpose(0, 3, 1, 2), jnp.float32)


def pictures(images):
    return np.asarray(images).transpose(0, 2, 3, 1)


def after(adjustment, picture=WAVE, grey_mean=True):
    """The picture after an adjustment by one number."""
    make, number = adjustment
    return pictures(adjusted(planes(picture), make(jnp.asarray([number], jnp.float32)), grey_mean=grey_mean))[
        0
    ]


def random_pictures(count, side=6, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, side, side, 3)).astype(np.float32)


def units_of(n, seed=0):
    return draws.units(draws.row_keys(jax.random.key(seed), jnp.arange(n)))


def jitter_of(form="torchvision", probability=1.0, **strengths):
    return colour.Jitter(probability, **NO_JITTER | strengths, form=form)


# The pixels (0, 0) and (2, 1) of (sin(1 + k) + 1) / 2 in 4 x 4 x 3, float64.
@pytest.mark.parametrize(
    "adjustment, grey_mean, first, inner",
    [
        (
            (colour.brightness, 1.3),
            True,
            [1.000000000, 1.000000000, 0.741728005],
            [0.826088762, 0.218637975, 0.007779444],
        ),
        (
            (colour.contrast, 0.7),
            True,
            [0.799644993, 0.823384248, 0.554522152],
            [0.599947175, 0.272858289, 0.159319080],
        ),
        (
            (colour.contrast, 0.7),
            False,
            [0.803009638, 0.823287213, 0.546336015],
            [0.603311819, 0.272761254, 0.151132944],
        ),
        (
            (colour.added_brightness, 0.3),
            True,
            [1.000000000, 1.000000000, 0.870560004],
            [0.935452894, 0.468183058, 0.305984188],
        ),
        (
            (colour.saturation, 1.4),
            True,
            [0.928777500, 0.976256009, 0.438531816],
            [0.773897043, 0.119719272, 0.000000000],
        ),
        (
            (colour.hue, 0.1),
            True,
            [0.690282345, 0.954648733, 0.570559978],
            [0.635452867, 0.545864284, 0.005984172],
        ),
        (
            (colour.hue, -0.2),
            True,
            [0.954648733, 0.570559978, 0.613464475],
            [0.635452867, 0.005984172, 0.599147737],
        ),
    ],
)
def test_an_adjustment_equals_the_published_numbers(adjustment, grey_mean, first, inner):
    out = after(adjustment, grey_mean=grey_mean)
    np.testing.assert_allclose(out[0, 0], first, atol=2e-6)
    np.testing.assert_allclose(out[2, 1], inner, atol=2e-6)


def test_grey_and_solarise_equal_the_published_numbers():
    grey = pictures(colour.random_grey(units_of(1), planes(WAVE), 1.0))[0]
    np.testing.assert_allclose(grey[0, 0], [0.900630474] * 3, atol=1e-6)
    np.testing.assert_allclose(grey[2, 1], [0.289342523] * 3, atol=1e-6)
    inverted = pictures(colour.random_solarise(units_of(1), planes(WAVE), 1.0, 0.5))[0]
    np.testing.assert_allclose(
        inverted[0, :2],
        [[0.079264508, 0.045351287, 0.429439996], [0.121598752, 0.020537863, 0.360292251]],
        atol=1e-6,
    )


@pytest.mark.parametrize("turn", [-0.5, -0.3, 0.0, 1 / 6, 0.45])
@pytest.mark.parametrize("factor", [0.0, 0.7, 3.0])
def test_hue_and_chroma_equal_the_way_through_hsv(turn, factor):
    corners = np.array(np.meshgrid([0, 0.25, 1], [0, 0.25, 1], [0, 0.25, 1])).reshape(3, 3, 9)
    picture = np.concatenate([corners.transpose(1, 2, 0), random_pictures(1, 9)[0]])
    turned = after((lambda f: colour.hue(f)._replace(chroma=jnp.asarray([factor])), turn), picture)
    for got, rgb in zip(turned.reshape(-1, 3), picture.reshape(-1, 3)):
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb.tolist())
        wanted = colorsys.hsv_to_rgb((hue + turn) % 1, min(1.0, saturation * factor), value)
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_saturation_in_hsv_is_a_factor_of_its_own():
    out = after((colour.hsv_saturation, 0.5), np.full((1, 1, 3), (0.8, 0.4, 0.2)))
    np.testing.assert_allclose(out[0, 0], [0.8, 0.6, 0.5], atol=1e-6)


def test_pictures_have_adjustments_of_their_own_and_nothing_changes_none():
    images = random_pictures(3)
    step = colour.nothing(3)._replace(scale=jnp.asarray([1.0, 0.5, 1.0]), turn=jnp.asarray([0.0, 0.0, 0.5]))
    step = step._replace(in_hsv=jnp.asarray([False, False, True]))
    out = pictures(adjusted(planes(*images), step))
    np.testing.assert_array_equal(out[0], images[0])
    np.testing.assert_array_equal(out[1], images[1] * np.float32(0.5))
    np.testing.assert_allclose(out[2].max(-1), images[2].max(-1), atol=1e-6)
    assert np.abs(out[2] - images[2]).max() > 0.1


@pytest.mark.parametrize("form", colour.FORMS)
def test_jitter_is_its_four_adjustments_in_the_drawn_order(form):
    jitter = jitter_of(form, brightness=0.4, contrast=0.8, saturation=0.3, hue=0.2)
    images, units = random_pictures(24), units_of(24)
    out = pictures(random_jitter(units, planes(*images), jitter))
    orders = np.asarray(draws.order(units, 4).T)
    assert len({tuple(order) for order in orders}) > 12
    operations = (draws.BRIGHTNESS, draws.CONTRAST, draws.SATURATION, draws.HUE)
    low, high = [0.6, 0.2, 0.7, -0.2], [1.4, 1.8, 1.3, 0.2]
    makes = [colour.brightness, colour.contrast, colour.saturation, colour.hue]
    if form != "torchvision":
        makes[2] = colour.hsv_saturation
    if form == "byol":
        makes[0], low[0], high[0] = colour.added_brightness, -0.4, 0.4
    factors = np.stack([draws.uniform(units, *args) for args in zip(operations, low, high)])
    for k in range(24):
        wanted = images[k]
        for kind in orders[k]:
            wanted = after((makes[kind], factors[kind, k]), wanted, grey_mean=form == "torchvision")
        np.testing.assert_allclose(out[k], wanted, atol=5e-6)


def test_jitter_spares_pictures_and_leaves_out_what_has_no_strength():
    images = random_pictures(400, 2)
    out = pictures(random_jitter(units_of(400), planes(*images), jitter_of(probability=0.3, brightness=0.5)))
    changed = np.abs(out - images).max((1, 2, 3)) > 0
    assert 80 < changed.sum() < 160
    ratio = (out / images)[changed].min((1, 2, 3))  # a channel that was cut off at 1 has less
    assert ratio.min() > 0.5 - 1e-6 and 0.5 < np.median(ratio) < 1.1 and ratio.max() < 1.5 + 1e-6
    np.testing.assert_array_equal(
        random_jitter(units_of(2), planes(*images[:2]), jitter_of()), planes(*images[:2])
    )


def test_grey_and_solarise_have_their_probabilities():
    images, units = planes(*random_pictures(1000, 2)), units_of(1000)
    grey = np.asarray(colour.random_grey(units, images, 0.2) != images).any((1, 2, 3))
    inverted = np.asarray(colour.random_solarise(units, images, 0.3, 0.0) != images).any((1, 2, 3))
    assert 160 < grey.sum() < 240 and 250 < inverted.sum() < 350
    assert abs(np.corrcoef(grey, inverted)[0, 1]) < 0.1


@pytest.mark.parity
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_adjustments_equal_those_of_torchvision(name):
    torch = reference_libraries.torch()
    functional = pytest.importorskip("torchvision.transforms.functional")
    picture, number = random_pictures(1, 16)[0], -0.37 if name == "hue" else 1.6
    wanted = getattr(functional, f"adjust_{name}")(torch.tensor(picture.transpose(2, 0, 1)), number)
    np.testing.assert_allclose(
        after((getattr(colour, name), number), picture), wanted.numpy().transpose(1, 2, 0), atol=3e-6
    )
