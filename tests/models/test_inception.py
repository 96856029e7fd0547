"""Inception-v3: its size, and what its two forms differ in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vitjax import models
from vitjax.errors import UserError
from vitjax.models import inception
from vitjax.models.inception import Inception


def shapes(px):
    images = jax.ShapeDtypeStruct((2, px, px, 3), jnp.float32)
    return jax.eval_shape(Inception().init_with_output, jax.random.key(0), images)


def test_has_the_published_number_of_parameters():
    """torchvision counts 23,834,568 with a thousand classes and without the auxiliary classifier."""
    out, variables = shapes(299)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == 23_834_568 - 2048 * 1000 - 1000
    assert out["features"].shape == (2, 2048) and out["tokens"].shape == (2, 8, 8, 2048)
    assert out["features"].dtype == jnp.float32


def test_pools_of_the_two_forms():
    x = jnp.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    corner = [float(pool(x)[0, 0, 0, 0]) for pool in (inception._mean_with_zeros, inception._mean, inception._maximum)]
    np.testing.assert_allclose(corner, [12 / 9, 12 / 4, 5])
    assert float(inception._maximum(-x)[0, 0, 0, 0]) == -1, "what lies around must not count as 0"


def test_the_config_chooses_the_form():
    config = ConfigDict(dict(name="inception", variant="fid"))
    assert models.build(config).variant == "fid"
    config.variant = "tf"
    with pytest.raises(UserError, match=r"config\.model\.variant='tf' is not known; choose from torchvision, fid"):
        models.build(config)


def test_pictures_that_are_too_small_are_refused():
    with pytest.raises(UserError, match=r"75 px or more, not \(74, 74\)"):
        shapes(74)
