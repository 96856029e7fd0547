"""Step -> value: learning rates, weight decay, the momentum of a teacher, the temperature of its softmax.

Each function here makes a schedule. Steps are counted from 0 and lengths are in steps, of which a fraction counts;
beyond its end a schedule stays where it ended. A schedule is pure and may be called within jit; making one touches
no device.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Schedule = Callable[[Int[Array, ""] | int], Float[Array, ""]]

TINY = 1e-9  # steps; what a length of 0 is divided by


def constant(value: float) -> Schedule:
    """`value` at every step."""
    return lambda step: jnp.asarray(value, jnp.float32)


def cosine(start: float, end: float, steps: float) -> Schedule:
    """Half a cosine from `start` at step 0 to `end` at `steps`: a learning rate's fall, DINO's weight decay's rise.

    Source: Loshchilov and Hutter, 2017, SGDR, equation 5.
    """

    def value(step: Int[Array, ""] | int) -> Float[Array, ""]:
        return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * _done(step, steps)))

    return value


def ema_momentum(initial: float, total_steps: float) -> Schedule:
    """The teacher's momentum, 1 - (1 - initial) * (cos(pi step / total_steps) + 1) / 2, which ends at exactly 1.

    Source: Grill et al., 2020, BYOL, section 3.2; the same in MoCo v3 and DINO.
    """
    return cosine(initial, 1.0, total_steps)


def linear_warmup(start: float, end: float, steps: float) -> Schedule:
    """A straight line from `start` at step 0 to `end` at `steps`.

    DINO's code takes the temperature of its teacher from such a line once an epoch, here it moves with every step.
    """
    return lambda step: start + (end - start) * _done(step, steps)


def rsqrt(peak: float, end: float, steps: float, timescale_steps: float, cooldown_steps: float) -> Schedule:
    """peak / sqrt(1 + step / timescale_steps), drawn to `end` in a straight line over the last steps.

    Source: Zhai et al., 2022, Scaling vision transformers, section 3.5.
    """

    def value(step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        slowed = peak / jnp.sqrt(1 + jnp.maximum(step, 0) / timescale_steps)
        return end + (slowed - end) * jnp.clip((steps - step) / max(cooldown_steps, TINY), 0, 1)

    return value


def after_warmup(start: float, peak: float, steps: float, then: Schedule) -> Schedule:
    """A straight line from `start` to `peak` in `steps`, and `then`, whose step 0 is the end of the warm-up.

    The codes of SwAV, DINO and solo-learn reach the peak at step `steps` - 1, here as in SimCLR, MAE and big_vision it
    is reached at `steps`.
    """
    if steps == 0:
        return then
    line = linear_warmup(start, peak, steps)

    def value(step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        return jnp.where(step < steps, line(step), then(step - steps)).astype(jnp.float32)

    return value


def _done(step: Int[Array, ""] | int, steps: float) -> Float[Array, ""]:
    """The share of `steps` that lies behind, 0 to 1."""
    step = jnp.asarray(step, jnp.float32)
    if steps == 0:
        return jnp.ones_like(step)
    return jnp.clip(step / steps, 0, 1)
