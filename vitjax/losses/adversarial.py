"""The losses of the two players of an adversarial game, of logits that are high for what looks real.

Each is a mean over pictures, and is kept as its terms, [B], so that the caller can weigh them. The discriminator's
loss is the mean of `real` over real pictures plus the mean of `fake` over made ones; the generator's is the mean of
`generator` over made ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Terms = Callable[[Float[Array, " B"]], Float[Array, " B"]]


class Adversarial(NamedTuple):
    """One loss of the game: logits -> terms, of the discriminator (`real`, `fake`) and of the generator.

    `zero` says whether a logit of 0 is undecided; else only differences between logits mean something.
    """

    real: Terms
    fake: Terms
    generator: Terms
    zero: bool = True


# The generator maximises log D instead of minimising log(1 - D), whose gradient is gone as long as it loses.
# Source: Goodfellow et al., 2014, Generative adversarial nets, section 3.
NON_SATURATING = Adversarial(lambda x: jax.nn.softplus(-x), jax.nn.softplus, lambda x: jax.nn.softplus(-x))

# Source: Lim and Ye, 2017, Geometric GAN; Miyato et al., 2018, Spectral normalization, equations 16 and 17.
HINGE = Adversarial(lambda x: jax.nn.relu(1 - x), lambda x: jax.nn.relu(1 + x), lambda x: -x)

# A distance only where the discriminator's slope is bounded, which this loss does not see to.
# Source: Arjovsky et al., 2017, Wasserstein GAN, equations 2 and 3.
WASSERSTEIN = Adversarial(lambda x: -x, lambda x: x, lambda x: -x, zero=False)

LOSSES = {"non_saturating": NON_SATURATING, "hinge": HINGE, "wasserstein": WASSERSTEIN}


def r1_penalty(slopes: Float[Array, "B H W C"]) -> Float[Array, " B"]:
    """Half the squared norm of each picture's slope, the gradient of its logit in its pixels; for real pictures.

    Source: Mescheder et al., 2018, Which training methods for GANs do actually converge?, equation 9.
    """
    return 0.5 * jnp.sum(jnp.square(slopes.astype(jnp.float32)), axis=tuple(range(1, slopes.ndim)))


def orthogonal_gradient(w: Float[Array, "O I"]) -> Float[Array, "O I"]:
    """The gradient of ||W W^T * (1 - I)||^2 / 2 in W, one row for each output: 2 (W W^T * (1 - I)) W.

    It leaves the rows' lengths alone and turns them away from each other. Half of the penalty as printed in the
    paper, whose own gradient is twice this; the strengths in use (1e-4) belong to this one.

    Source: Brock et al., 2019, Large scale GAN training, equation 3, and its authors' code.
    """
    if w.shape[0] <= w.shape[1]:
        products = w @ w.T
        return 2 * (products - jnp.diag(jnp.diag(products))) @ w
    # The same without a matrix O x O. What is taken away is nearly all of it: no lower precision.
    products = jnp.matmul(w.T, w, precision="highest")
    return 2 * (jnp.matmul(w, products, precision="highest") - jnp.sum(w * w, axis=1, keepdims=True) * w)
