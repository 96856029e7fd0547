"""The learning rate of each parameter: a schedule, and by path a factor, a constant or a decay by depth."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from vitjax import trees
from vitjax.errors import UserError
from vitjax.layerwise import Patterns, by_layer, shapes
from vitjax.schedules import Schedule

_BLOCK = re.compile(r"^backbone/(?:.*/)?block_(\d+)/")
_EMBEDDING = re.compile(r"^backbone/(patch|position|cls|cls_position|mask_token)(/|$)")


class Rates(NamedTuple):
    """The learning rate of each parameter.

    Attributes:
      schedule: step -> the rate of most.
      peak: the rate, all along, of what `constant` names.
      constant: paths without a schedule, such as SimSiam's predictor.
      scales: paths and the factor of their rates, of which the first that a path matches counts.
      layer_decay: see `layer_scales`.
    """

    schedule: Schedule
    peak: float
    constant: Patterns
    scales: Sequence[tuple[Patterns, float]]
    layer_decay: float

    def __call__(self, tree: Any, step: Int[Array, ""] | int) -> Any:
        """A tree like `tree` with the rate of each leaf: a scalar, or one of each block along depth."""
        now = self.schedule(step)
        by_depth = {} if self.layer_decay == 1 else trees.flatten(layer_scales(tree, self.layer_decay))

        def rate(path: str, leaf: Any) -> Array:
            constant = by_layer(lambda name, rank: float(self.constant(name)), path, leaf)
            scheduled = now if np.all(constant == 0) else jnp.where(constant, self.peak, now)
            return scheduled * (by_layer(self._scale, path, leaf) * by_depth.get(path, 1.0))

        return trees.map_with_path(rate, tree)

    def _scale(self, name: str, rank: int) -> float:
        return next((factor for matches, factor in self.scales if matches(name)), 1.0)


def layer_scales(params: Any, decay: float) -> Any:
    """A tree like `params` with the factor of layer-wise rate decay for each leaf.

    decay ** (depth + 1 - id): embeddings of the backbone have id 0, block i has i + 1, and the final norm,
    heads and whatever else lies outside the backbone have depth + 1, so that their rate is unchanged.

    Raises:
      UserError: the backbone has no blocks to count.

    Source: Clark et al., 2020, ELECTRA, appendix; as in BEiT and MAE.
    """
    names = trees.unstack(shapes(params))
    blocks = [int(match.group(1)) for match in map(_BLOCK.match, names) if match]
    if not blocks:
        raise UserError(
            f"config.optim.layer_decay={decay:g} needs a backbone made of blocks, such as "
            "config.model.name='vit'; use config.optim.layer_decay=1.0"
        )
    last = max(blocks) + 2

    def scale(name: str, rank: int) -> float:
        block = _BLOCK.match(name)
        layer = int(block.group(1)) + 1 if block else 0 if _EMBEDDING.match(name) else last
        return decay ** (last - layer)

    return trees.map_with_path(lambda path, leaf: by_layer(scale, path, leaf), params)


def scale_by_rates(rates: Rates) -> optax.GradientTransformationExtraArgs:
    """Scales each leaf's update by minus its rate, of the step that `update` is told.

    optax counts for itself in `scale_by_schedule`, and counts the accepted updates only: after a refused one
    its rate would lag behind the one that is logged, and behind the run's length.
    """

    def update(updates: Any, state: Any, params: Any = None, *, step: Array, **_: Any) -> tuple[Any, Any]:
        scaled = jax.tree.map(lambda u, r: (-r).astype(u.dtype) * u, updates, rates(updates, step))
        return scaled, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
