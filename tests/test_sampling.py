"""Standing statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax import latent, sampling
from vitjax.models import layers

PASSES, BATCH = 3, 32


class Normed(nn.Module):
    """A batch norm of the latent, scaled by a weight."""

    @nn.compact
    def __call__(self, z, y, train=False):
        z = 3 + z * self.param("scale", nn.initializers.constant(2.0), ())
        x = nn.BatchNorm(use_running_average=not train, momentum=layers.MOMENTUM, name="norm")(z)
        return jnp.broadcast_to(x[:, None, None, :3], (len(z), 2, 2, 3))


def test_they_are_the_means_over_the_passes_whatever_stood_there():
    sampler = sampling.Sampler(Normed(), 4, 1, 0.0, PASSES, BATCH)
    variables = Normed().init(jax.random.key(0), jnp.zeros((1, 4)), jnp.zeros(1, int))
    variables["batch_stats"]["norm"]["mean"] += 100.0
    key = jax.random.key(1)
    found = sampler.standing_statistics()(variables, key)["batch_stats"]["norm"]
    drawn = [3 + 2 * latent.draw(jax.random.fold_in(key, i), jnp.arange(BATCH), 4) for i in range(PASSES)]
    np.testing.assert_allclose(found["mean"], np.mean([z.mean(0) for z in drawn], 0), rtol=1e-5)
    np.testing.assert_allclose(found["var"], np.mean([z.var(0) for z in drawn], 0), rtol=1e-4)


def test_they_are_those_of_the_truncation():
    variables = Normed().init(jax.random.key(0), jnp.zeros((1, 4)), jnp.zeros(1, int))
    spread = {}
    for truncation in (0.0, 0.5):
        sampler = sampling.Sampler(Normed(), 4, 1, truncation, PASSES, BATCH)
        stats = sampler.standing_statistics()(variables, jax.random.key(1))["batch_stats"]
        spread[truncation] = float(stats["norm"]["var"].mean())
    assert spread[0.5] < 0.15 * spread[0.0]
