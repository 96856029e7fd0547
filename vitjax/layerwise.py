"""What an optimiser asks of single parameters: names that patterns find, ranks and norms, blocks stacked or not.

A stacked leaf holds one weight of every block, depth first. Its rank is counted without that axis, its norms are
taken a block at a time, and what depends on a block's name or place becomes a vector along depth. `by_layer` and
`layer_norm` are the two places that know.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax import trees
from vitjax.errors import UserError


class Patterns:
    """Regular expressions of a setting; called with a parameter's path, whether one of them is found in it.

    Paths are those of single blocks, such as 'backbone/block_03/mlp/fc1/kernel', be they stacked or not.

    Raises:
      UserError: one is no regular expression.
    """

    def __init__(self, setting: str, given: str | Sequence[str]):
        given = (given,) if isinstance(given, str) else tuple(given)
        self._setting, self._given = setting, given
        try:
            self._compiled = [re.compile(pattern) for pattern in given]
        except re.error as error:
            raise UserError(
                f"{setting}={given}: {error.pattern!r} is no regular expression: {error}"
            ) from error

    def __call__(self, name: str) -> bool:
        return any(pattern.search(name) for pattern in self._compiled)

    def __len__(self) -> int:
        return len(self._compiled)

    def refuse_idle(self, params: Any) -> None:
        """Nothing, if each pattern is found in the path of a parameter.

        Raises:
          UserError: one is in none; the paths that come nearest are named.
        """
        names = list(trees.unstack(shapes(params)))
        for pattern in self._compiled:
            if not any(map(pattern.search, names)):
                near = ", ".join(difflib.get_close_matches(pattern.pattern, names, n=3, cutoff=0.0))
                raise UserError(
                    f"{self._setting}={self._given}: no parameter's path has {pattern.pattern!r}; "
                    f"the nearest are {near}"
                )


def shapes(tree: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Path -> shape of its leaf: what names and ranks are read from, so that nothing of it is traced."""
    return {path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in trees.flatten(tree).items()}


def by_layer(fn: Callable[[str, int], float], path: str, leaf: Any) -> float | np.ndarray:
    """fn(name, rank) of a leaf: a number or, where it differs between stacked blocks, an array along depth.

    Names are those of single blocks, '.../block_03/...', and the rank is a block's.
    """
    rank = leaf.ndim - trees.is_stacked(path)
    names = trees.unstack({path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)})
    values = [fn(name, rank) for name in names]
    if len(set(values)) == 1:
        return values[0]
    return np.asarray(values, np.float32).reshape(-1, *(1,) * rank)


def layer_norm(path: str, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The Euclidean norm of a leaf, of each block where it is stacked; broadcasts against the leaf."""
    axes = tuple(range(int(trees.is_stacked(path)), x.ndim))
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=axes, keepdims=True))
