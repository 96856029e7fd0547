"""Models: flax modules without losses, found by the name of their file."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax import names


def build(config: Any, dtype: Any = jnp.float32) -> nn.Module:
    """The backbone that `config.model` describes; parameters stay float32 whatever the compute `dtype`.

    Raises:
      UserError: `config.model.name` names no file of this package.
    """
    return names.find("models", config.name, "config.model.name").make(config, dtype)


def couples_examples(model: nn.Module) -> bool:
    """Whether what the model computes for one training picture depends on the others (batch norm)."""
    return getattr(model, "COUPLES_EXAMPLES", False)


def part(variables: Any, name: str) -> dict[str, Any]:
    """The variables of one part of a model, such as 'backbone', in all collections that have it."""
    return {collection: tree[name] for collection, tree in variables.items() if name in tree}
