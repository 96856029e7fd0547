"""What does not move, or not at first, and leaves no trace in an optimiser's slots while it does not."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int

from vitjax import trees
from vitjax.layerwise import Patterns, by_layer


class Still(NamedTuple):
    """What does not move: what `frozen` names never does, what `held` names not in the first `held_steps` steps."""

    frozen: Patterns
    held: Patterns
    held_steps: float

    def moves(self, path: str, leaf: Any, step: Int[Array, ""] | int) -> Bool[Array, "..."] | bool:
        """Whether a leaf moves, a mask along depth where that differs between stacked blocks."""
        frozen = by_layer(lambda name, rank: float(self.frozen(name)), path, leaf)
        held = by_layer(lambda name, rank: float(self.held(name)), path, leaf)
        if np.all(frozen == 0) and np.all(held == 0):
            return True
        return (frozen == 0) & ((held == 0) | self.released(step))

    def released(self, step: Int[Array, ""] | int) -> Bool[Array, ""]:
        """Whether what is held at first may move by now."""
        return jnp.asarray(step) >= self.held_steps


def holding_still(
    tx: optax.GradientTransformationExtraArgs, still: Still
) -> optax.GradientTransformationExtraArgs:
    """`tx` without what stands still, which it sees as zeros: no gradient to clip by, no weight to decay.

    So slots stay empty until a parameter is let go, as PyTorch's do where a gradient is None. What never moves has none
    where the rule that keeps them is `without_slots`.
    """

    def update(updates: Any, state: Any, params: Any, *, step: Array, **more: Any) -> tuple[Any, Any]:
        def moving(path: str, x: Array) -> Array:
            moves = still.moves(path, x, step)
            return x if moves is True else jnp.where(moves, x, jnp.zeros((), x.dtype))

        updates, params = trees.map_with_path(moving, updates), trees.map_with_path(moving, params)
        updates, state = tx.update(updates, state, params, step=step, **more)
        return trees.map_with_path(moving, updates), state

    return optax.GradientTransformationExtraArgs(tx.init, update)


def without_slots(
    tx: optax.GradientTransformation, frozen: Patterns
) -> optax.GradientTransformation:
    """`tx`, which keeps slots, without those of what is frozen: a locked tower would else take three times its memory.

    A stack of blocks of which some move keeps the slots of all. Where nothing is frozen `tx` is what it was, with the
    same names in a checkpoint.
    """
    if not frozen:
        return tx

    def has_slots(path: str, leaf: Any) -> bool:
        return not np.all(by_layer(lambda name, rank: float(frozen(name)), path, leaf))

    return optax.masked(tx, lambda tree: trees.map_with_path(has_slots, tree))


class LateAdamState(NamedTuple):
    """Adam's slots, and how many updates there were since what is held at first was let go."""

    adam: optax.ScaleByAdamState
    released: Int[Array, ""]


def scale_by_adam(b1: float, b2: float, eps: float, still: Still) -> optax.GradientTransformation:
    """Adam, whose bias correction begins for each parameter with the first update that moves it.

    A parameter that was held has empty slots when it is let go. Corrected by the count of all updates, its first
    steps would be (1 - b1) / sqrt(1 - b2) times as long as they should be, 3.2 times with 0.9 and 0.999.
    """
    adam = optax.scale_by_adam(b1, b2, eps)
    if not still.held:
        return adam

    def init(params: Any) -> LateAdamState:
        return LateAdamState(adam.init(params), jnp.zeros((), jnp.int32))

    def update(updates: Any, state: LateAdamState, params: Any = None, *, step: Array, **_: Any):
        early, slots = adam.update(updates, state.adam)
        late, _ = adam.update(updates, state.adam._replace(count=state.released))

        def choose(path: str, a: Array, b: Array) -> Array:
            held = by_layer(lambda name, rank: float(still.held(name)), path, a)
            return a if np.all(held == 0) else jnp.where(held, b, a)

        chosen = trees.map_with_path(choose, early, late)
        return chosen, LateAdamState(slots, state.released + still.released(step))

    return optax.GradientTransformationExtraArgs(init, update)
