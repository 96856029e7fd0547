"""DCGAN and BigGAN: the papers' sizes, what trains, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from ml_collections import ConfigDict

from vitjax import models
from vitjax.errors import UserError
from vitjax.models import biggan, dcgan

BIGGAN = dict(name="biggan", ch=96, attention_px=64, shared_width=128, hierarchical=True, init="orthogonal")
CIFAR = BIGGAN | dict(ch=64, attention_px=0, shared_width=0, hierarchical=False, init="normal")


def counts(players, size_px, z_dim):
    """Parameters of the generator and the discriminator."""
    z, y, x = jnp.zeros((1, z_dim)), jnp.zeros(1, jnp.int32), jnp.zeros((1, size_px, size_px, 3))
    shapes = [jax.eval_shape(m.init, jax.random.key(0), i, y)["params"] for m, i in zip(players, (z, x))]
    return tuple(sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in shapes)


def dcgan_counts(width, layers, z_dim=100):
    """In closed form: kernels of 16 places, and two numbers a channel in each batch norm."""
    channels = [width * 2**i for i in range(layers)]
    kernels = sum(16 * a * b for a, b in zip([3, *channels], channels))
    return (
        kernels + 16 * z_dim * channels[-1] + 2 * sum(channels),
        kernels + 16 * channels[-1] + 2 * sum(channels[1:]),
    )


@pytest.mark.parametrize("size_px", dcgan.SIZES)
def test_dcgan_has_the_papers_parameters(size_px):
    players = dcgan.players(ConfigDict(dict(width=64)), size_px)
    found = counts(players, size_px, 100)
    assert found == dcgan_counts(64, {32: 3, 64: 4, 128: 5}[size_px])
    assert size_px != 64 or found == (3_576_704, 2_765_568)


@pytest.mark.parametrize(
    "settings, size_px, classes, z_dim, expected",
    [(BIGGAN, 128, 1000, 120, (70_433_988, 87_982_370)), (CIFAR, 32, 10, 128, (4_304_387, 4_207_361))],
)
def test_biggan_has_the_papers_parameters(settings, size_px, classes, z_dim, expected):
    players = biggan.players(ConfigDict(settings), size_px, classes, z_dim)
    assert counts(players, size_px, z_dim) == expected


@pytest.mark.parametrize("size_px, z_dim", [(64, 100), (256, 140)])
def test_biggan_of_other_sizes_makes_pictures_and_logits(size_px, z_dim):
    generator, discriminator = biggan.players(
        ConfigDict(BIGGAN | dict(attention_px=32, ch=8)), size_px, 5, z_dim
    )
    z, y = jnp.zeros((2, z_dim)), jnp.zeros(2, jnp.int32)
    images = jax.eval_shape(lambda: generator.init_with_output(jax.random.key(0), z, y)[0])
    assert images.shape == (2, size_px, size_px, 3)
    variables = jax.eval_shape(discriminator.init, jax.random.key(0), jnp.zeros(images.shape), y)
    assert jax.eval_shape(discriminator.apply, variables, images, y).shape == (2,)
    assert [name for name in variables["params"]["backbone"] if "attention" in name] == [
        {64: "attention0", 256: "attention2"}[size_px]
    ]


def test_upsampling_is_the_transpose_of_downsampling_and_has_its_gradients():
    keys = jax.random.split(jax.random.key(0), 3)
    x, y = jax.random.normal(keys[0], (2, 4, 4, 5)), jax.random.normal(keys[1], (2, 8, 8, 3))
    kernel = jax.random.normal(keys[2], (4, 4, 3, 5))
    products = jnp.vdot(dcgan.upsampled(x, kernel), y), jnp.vdot(x, dcgan.downsampled(y, kernel))
    np.testing.assert_allclose(*products, rtol=1e-4)

    def library(x, kernel):
        return lax.conv_transpose(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), transpose_kernel=True
        )

    def gradients(upsample):
        return jax.grad(lambda *inputs: jnp.sum(upsample(*inputs) ** 3), (0, 1))(x, kernel)

    found, expected = gradients(dcgan.upsampled), gradients(library)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-2)


def test_dcgan_features_are_the_maxima_of_all_layers_on_a_grid():
    backbone = models.build(ConfigDict(dict(name="dcgan", width=2)))
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    out, variables = backbone.init_with_output(jax.random.key(1), images)
    assert out["features"].shape == (2, 16 * (2 + 4 + 8))
    np.testing.assert_array_equal(out["features"][:, -16 * 8 :], out["tokens"].reshape(2, -1))
    first = jax.nn.leaky_relu(dcgan.downsampled(images, variables["params"]["conv_0"]), 0.2)
    np.testing.assert_allclose(out["features"][0, :2], first[0, :4, :4].max((0, 1)), rtol=1e-5)


def test_biggan_features_do_not_depend_on_the_rest_of_the_batch():
    backbone = models.build(ConfigDict(BIGGAN | dict(ch=2, attention_px=0)))
    images = jax.random.normal(jax.random.key(0), (3, 32, 32, 3))
    out, variables = backbone.init_with_output(jax.random.key(1), images)
    assert out["features"].shape == (3, 8)
    np.testing.assert_allclose(
        backbone.apply(variables, images[:1])["features"], out["features"][:1], rtol=1e-5
    )


def test_an_embedding_of_zeros_leaves_the_norm_alone():
    """The gain is 1 + W c, so that a class without a direction is normalised and nothing else."""
    norm = biggan.ConditionalNorm(3, jax.nn.initializers.zeros, jnp.float32)
    x = 5 + 3 * jax.random.normal(jax.random.key(0), (4, 6, 6, 2))
    y, _ = norm.init_with_output(jax.random.key(0), x, jnp.zeros(4, jnp.int32), True)
    np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=1e-3)


@pytest.mark.parametrize(
    "change, size_px, z_dim, message",
    [
        ({}, 96, 120, r"size_px=96.*32, 64, 128, 256"),
        (dict(attention_px=128), 128, 120, r"attention_px=128 is no side.*choose from 8, 16, 32, 64"),
        (dict(shared_width=0), 128, 120, r"hierarchical=True needs.*shared_width=128"),
        ({}, 128, 100, r"z_dim=100 must be a multiple of 6.*try 96"),
        (dict(shared_width=-1), 128, 120, r"shared_width=-1 must be at least 0"),
        (dict(ch=4), 128, 120, r"ch=4: attention.*attention_px=64.*set config\.model\.ch=8"),
        (dict(ch=0), 128, 120, r"ch=0 must be 1 or more"),
        (dict(init="othogonal"), 128, 120, r"init='othogonal'.*orthogonal, normal"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, size_px, z_dim, message):
    with pytest.raises(UserError, match=message):
        biggan.players(ConfigDict(BIGGAN | change), size_px, 10, z_dim)


def test_dcgan_refuses_other_sizes():
    with pytest.raises(UserError, match=r"size_px=48: DCGAN makes pictures of 32, 64, 128 px"):
        dcgan.players(ConfigDict(dict(width=8)), 48)
    with pytest.raises(UserError, match=r"width=0 must be 1 or more"):
        dcgan.players(ConfigDict(dict(width=0)), 32)
    with pytest.raises(UserError, match=r"halve pictures of 32, 64, 128 px, not of 40"):
        dcgan.Discriminator(2).init(jax.random.key(0), jnp.zeros((1, 40, 40, 3)))
