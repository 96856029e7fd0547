"""Convolutions by other means equal XLA's, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vitjax import sharding
from vitjax.config import base_config
from vitjax.models.convolution import convolve

LAX = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))  # as flax calls it


@pytest.mark.parametrize(
    "shape, size, stride",
    [
        ((2, 2), 3, 1),
        ((4, 4), 3, 2),
        ((1, 1), 3, 1),
        ((1, 3), 3, 2),
        ((3, 4), 3, 2),
        ((4, 1), 3, 1),
        ((5, 4), 1, 2),
        ((8, 8), 3, 2),
        ((7, 5), 7, 2),
        ((2, 1), 7, 2),
    ],
)
def test_equals_the_plain_convolution(shape, size, stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, *shape, 5)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 5, 4)).astype(np.float32)
    call = (stride, stride), ((size // 2, size // 2),) * 2

    def both(convolution):
        y, pull = jax.vjp(lambda x, kernel: convolution(x, kernel, *call, **LAX), x, kernel)
        return y, *pull(jnp.cos(y))

    for ours, plain in zip(both(convolve), both(lax.conv_general_dilated)):
        np.testing.assert_allclose(ours, plain, atol=2e-5)


@pytest.mark.parametrize("size, stride", [(1, 2), (3, 1), (3, 2), (7, 2)])
def test_gradient_in_the_kernel_is_that_of_all_blocks(size, stride, monkeypatch):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6, 9, 9, 3)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 3, 4)).astype(np.float32)

    def energy(convolution, kernel):
        return jnp.sum(jnp.cos(convolution(x, kernel, (stride, stride), ((size // 2, size // 2),) * 2, **LAX)))

    def second(convolution):
        return jax.grad(lambda kernel: jnp.sum(jax.grad(energy, 1)(convolution, kernel) ** 2))(kernel)

    expected = jax.grad(energy, 1)(lax.conv_general_dilated, kernel), second(lax.conv_general_dilated)
    for block in (1, 2 * 9 * 9 * size**2 * 3, 2**21):
        monkeypatch.setattr("vitjax.models.convolution.BLOCK", block)
        np.testing.assert_allclose(jax.grad(energy, 1)(convolve, kernel), expected[0], atol=1e-4)
        np.testing.assert_allclose(second(convolve), expected[1], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("setting", [dict(rhs_dilation=(2, 2)), dict(lhs_dilation=(2, 2)), dict(feature_group_count=2)])
def test_dilation_and_groups_are_left_to_lax(setting):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 2, 2, 4)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 4 // setting.get("feature_group_count", 1), 4)).astype(np.float32)
    call = (1, 1), ((2, 2), (2, 2))
    np.testing.assert_array_equal(
        convolve(x, kernel, *call, **LAX, **setting), lax.conv_general_dilated(x, kernel, *call, **LAX, **setting)
    )


@pytest.mark.parametrize("shape", [(2, 2), (8, 8)])
def test_precision_is_that_of_the_layer(shape):
    def gradients(x, kernel):
        y = convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), precision=lax.Precision.HIGHEST, **LAX)
        return jnp.sum(y**2)

    x, kernel = np.zeros((3, *shape, 5), np.float32), np.zeros((3, 3, 5, 4), np.float32)
    text = str(jax.make_jaxpr(jax.grad(gradients, (0, 1)))(x, kernel))
    products = text.count("dot_general[") + text.count("conv_general_dilated[")
    assert products >= 3 and text.count("Precision.HIGHEST, Precision.HIGHEST") == products


@pytest.mark.parametrize("shape, size, stride, by_product", [((2, 2), 3, 1, True), ((8, 8), 3, 2, False)])
def test_small_maps_are_products(shape, size, stride, by_product):
    call = (stride, stride), ((size // 2, size // 2),) * 2
    text = str(
        jax.make_jaxpr(lambda x, kernel: convolve(x, kernel, *call, **LAX))(
            np.zeros((3, *shape, 5), np.float32), np.zeros((size, size, 5, 4), np.float32)
        )
    )
    assert ("dot_general" in text, "conv_general" in text) == (by_product, not by_product)


def test_over_several_devices_the_gradient_is_laxs():
    x, kernel = jnp.zeros((8, 8, 8, 5)), jnp.zeros((3, 3, 5, 4))

    def loops(mesh):
        with sharding.use(mesh):
            gradient = jax.grad(lambda kernel: jnp.sum(convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), **LAX)))
            return "scan" in str(jax.make_jaxpr(gradient)(kernel))

    config = base_config().mesh
    assert loops(sharding.make_mesh(config, jax.devices()[:1]))
    assert not loops(sharding.make_mesh(config, jax.devices()[:8]))


def test_no_picture_has_a_gradient_of_zero():
    x, kernel = jnp.zeros((0, 8, 8, 5)), jnp.ones((3, 3, 5, 4))
    gradient = jax.grad(lambda kernel: jnp.sum(convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), **LAX)))(kernel)
    assert gradient.shape == kernel.shape and not np.any(gradient)
