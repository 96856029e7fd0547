"""LARS: each tensor's step in proportion to the tensor's own norm, in the published forms, which differ.

form      ratio of a tensor w with the gradient g, weight decay d, trust coefficient t, rate r   the rate stands
simclr    t |w| / |g + d w|                                                                     in the velocity
byol      t |w| / |g + d w|                                                                     outside
larc      t |w| / (|g| + d |w|)                                                                 outside
solo      min(t |w| / (|g| + d |w|) / r, 1)                                                     outside

The gradient that enters the velocity is ratio * (g + d w), which 'simclr' multiplies by the rate first: they differ as
soon as the rate changes, which inside acts only on what is added from then on. BYOL's form is also that of MAE's probe,
Barlow Twins and VICReg, 'larc' that of SwAV, where biases and norms are decayed and adapted, too, and 'solo' that of
solo-learn, with a trust coefficient of 0.02: no step is longer than plain SGD's. The ratio is 1 where either norm is 0.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from vitjax import trees
from vitjax.layerwise import by_layer, layer_norm
from vitjax.schedules import Schedule

FORMS = ("simclr", "byol", "larc", "solo")
EPS = 1e-8  # of LARC's denominator

Adapts = Callable[[str, int], float]  # (name, rank) -> 1 for what is decayed and adapted, else 0


def scale_by_layer_trust(trust_coefficient: float, adapts: Adapts) -> optax.GradientTransformation:
    """Scales each tensor's update, its decay added, to trust_coefficient * |w|; unchanged where either norm is 0.

    Source: You et al., 2017, Large batch training of convolutional networks, equation 6.
    """

    def scale(path: str, update: Array, param: Array) -> Array:
        factor = by_layer(adapts, path, param)
        if np.all(factor == 0):
            return update
        of_param, of_update = layer_norm(path, param), layer_norm(path, update)
        known = (of_param > 0) & (of_update > 0) & (np.asarray(factor) > 0)
        return update * jnp.where(known, trust_coefficient * of_param / jnp.where(known, of_update, 1.0), 1.0)

    return optax.stateless(lambda updates, params: trees.map_with_path(scale, updates, params))


def decay_and_scale_by_larc(
    trust_coefficient: float,
    decay: Schedule,
    adapts: Adapts,
    rates: Callable[[Any, Array], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Each tensor's gradient with its decay, times the ratio of 'larc' or, given the `rates`, of 'solo'.

    Where either norm is 0 the gradient is left alone: neither scaled nor decayed.

    Args:
      rates: (tree, step) -> the rate of each leaf, which 'solo' bounds the ratio with.

    Source: the LARC of NVIDIA's apex and the LARS of solo-learn.
    """

    def update(updates: Any, state: Any, params: Any, *, step: Array, **_: Any) -> tuple[Any, Any]:
        decay_now = decay(step)

        def scale(path: str, update: Array, param: Array, *rate: Array) -> Array:
            factor = by_layer(adapts, path, param)
            if np.all(factor == 0):
                return update
            of_param, of_update = layer_norm(path, param), layer_norm(path, update)
            ratio = trust_coefficient * of_param / (of_update + decay_now * of_param + EPS)
            if rate:
                ratio = jnp.minimum(ratio / rate[0], 1.0)
            known = (of_param > 0) & (of_update > 0) & (np.asarray(factor) > 0)
            return jnp.where(known, ratio * (update + decay_now * param), update)

        bounds = () if rates is None else (rates(updates, step),)
        return trees.map_with_path(scale, updates, params, *bounds), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
