"""Other libraries' tiny generators and discriminators, filled by a hash: same outputs, and the same bits written back.

The numbers were made in float64 with pytorch/examples (DCGAN) and BigGAN-PyTorch, in evaluation mode.
"""

import foreign_gan_shapes as shapes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import hash_weights, wave

from vitjax import trees
from vitjax.errors import UserError
from vitjax.interop import gan, table
from vitjax.models import biggan, dcgan, part

DCGAN = {
    "generator": (shapes.dcgan_generator(), gan.dcgan_generator(4)),
    "discriminator": (shapes.dcgan_discriminator(), gan.dcgan_discriminator(4)),
}
BIGGAN = {
    "generator": (shapes.biggan_generator(), gan.biggan_generator(32, 16, shared=True)),
    "discriminator": (shapes.biggan_discriminator(), gan.biggan_discriminator(32, 16)),
}
Y = jnp.asarray([0, 3])
ORTHOGONAL = biggan.INITS["orthogonal"]


def outputs(module, tables, name, *inputs):
    """What the player `name` makes of the weights, which must be exactly those that it has."""
    foreign, rows = tables[name]
    flat = table.read(hash_weights(foreign), rows)
    variables = part(trees.unflatten({k: jnp.asarray(x, jnp.float32) for k, x in flat.items()}), name)
    wanted = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    assert jax.tree.map(jnp.shape, wanted) == jax.tree.map(jnp.shape, variables)
    with jax.default_matmul_precision("highest"):
        return jax.jit(module.apply)(variables, *inputs)


def test_dcgan_makes_the_same_pictures_and_judges_them_alike():
    z = jnp.asarray(wave(1, (2, 4)), jnp.float32)
    images = outputs(dcgan.Generator(2, 64), DCGAN, "generator", z)
    np.testing.assert_allclose(images[0, 0, :3, 0], [-0.010656541, -0.061812936, -0.015384383], atol=1e-5)
    np.testing.assert_allclose(
        [images.sum(), jnp.abs(images).sum()], [-231.231521559, 1151.994993099], rtol=1e-5
    )
    logits = outputs(dcgan.Discriminator(2), DCGAN, "discriminator", images)
    np.testing.assert_allclose(logits, [0.0416732636977777, 0.04136275561289565], atol=1e-6)


def test_biggan_makes_the_same_pictures_and_judges_them_alike():
    z = jnp.asarray(wave(1, (2, 12)), jnp.float32)
    generator = biggan.Generator(4, 32, 5, 6, 4, 16, ORTHOGONAL)
    images = outputs(generator, BIGGAN, "generator", z, Y)
    np.testing.assert_allclose(images[0, 0, :3, 0], [-0.533769734, -0.518332029, -0.560060198], atol=1e-4)
    np.testing.assert_allclose(
        [images.sum(), jnp.abs(images).sum()], [-1987.411045618, 1993.688252995], rtol=1e-5
    )
    logits = outputs(biggan.Discriminator(4, 5, 16, ORTHOGONAL), BIGGAN, "discriminator", images, Y)
    np.testing.assert_allclose(logits, [-14.186519594, -1.632735828], rtol=1e-4)


@pytest.mark.parametrize("tables", [DCGAN, BIGGAN], ids=["dcgan", "biggan"])
@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_weights_are_written_back_to_the_bit(tables, name):
    foreign, rows = tables[name]
    weights = hash_weights(foreign)
    written = table.write(table.read(weights, rows), rows)
    assert sorted(written) == sorted(weights)
    for key, x in weights.items():
        np.testing.assert_array_equal(written[key], x, err_msg=key)


def test_a_generator_without_a_shared_embedding_reads_gains_by_class():
    module = biggan.Generator(4, 32, 5, 0, 1, 0, ORTHOGONAL)
    ours = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 12)), jnp.zeros(1, jnp.int32)))
    mine = {path.replace("/", "/generator/", 1) for path in trees.flatten(ours)}
    assert mine == {name for row in gan.biggan_generator(32, 0, shared=False) for name in row.ours}


def test_weights_of_another_size_are_refused():
    with pytest.raises(UserError, match=r"missing: 12\.bias, 12\.running_mean"):
        table.read(hash_weights(shapes.dcgan_discriminator()), gan.dcgan_discriminator(5))
