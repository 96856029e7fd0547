"""Convolutions by other means equal XLA's, in values and gradients."""

import jax
import numpy as np
import pytest
from jax import lax

from vitjax.models.convolution import convolve

LAYOUT = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # flax's: NHWC, HWIO, NHWC


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
        y, pull = jax.vjp(lambda x, kernel: convolution(x, kernel, *call, dimension_numbers=LAYOUT), x, kernel)
        return y, *pull(jax.numpy.cos(y))

    for ours, plain in zip(both(convolve), both(lax.conv_general_dilated)):
        np.testing.assert_allclose(ours, plain, atol=2e-5)


@pytest.mark.parametrize("shape, size, stride, by_product", [((2, 2), 3, 1, True), ((8, 8), 3, 2, False)])
def test_small_maps_are_products(shape, size, stride, by_product):
    call = (stride, stride), ((size // 2, size // 2),) * 2
    text = str(
        jax.make_jaxpr(lambda x, kernel: convolve(x, kernel, *call, dimension_numbers=LAYOUT))(
            np.zeros((3, *shape, 5), np.float32), np.zeros((size, size, 5, 4), np.float32)
        )
    )
    assert ("dot_general" in text, "conv_general" in text) == (by_product, not by_product)
