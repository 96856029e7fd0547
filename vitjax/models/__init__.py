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
