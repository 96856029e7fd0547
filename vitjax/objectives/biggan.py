"""BigGAN: a residual generator and a projection discriminator that know the classes of the pictures.

Source: Brock et al., 2019, Large scale GAN training for high fidelity natural image synthesis, sections 3 and 4 and
appendix C.
"""

from typing import Any

import optax
from jaxtyping import Array, Float

from vitjax import adversarial, trees
from vitjax.errors import UserError
from vitjax.losses.adversarial import orthogonal_gradient
from vitjax.models import biggan
from vitjax.objective import Objective, Run


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.objective` names the label field, and holds the rules of the game.

    Raises:
      UserError: the data has no such labels; and see `vitjax.adversarial`.
    """
    c = config.objective
    if c.label not in run.class_names:
        known = ", ".join(run.class_names) or "none: sort the pictures into one folder a class"
        raise UserError(f"config.objective.label={c.label!r} is no label of this data; it has {known}")
    if c.orthogonal < 0:
        raise UserError(f"config.objective.orthogonal={c.orthogonal} must be at least 0; the paper has 1e-4")
    players = biggan.players(
        config.model, config.data.size_px, len(run.class_names[c.label]), c.z_dim, run.dtype
    )
    regularise = add_orthogonal(c.orthogonal) if c.orthogonal else None
    return adversarial.objective(config, run, *players, c.label, regularise)


def add_orthogonal(strength: float) -> optax.GradientTransformation:
    """Adds the gradient of orthogonal regularisation, of all weights but the class embedding that blocks share."""

    def add(path: str, gradient: Array, weight: Array) -> Array:
        if weight.ndim < 2 or path == "shared/embedding":
            return gradient
        return gradient + strength * _orthogonal(path, weight)

    return optax.stateless(lambda gradients, params: trees.map_with_path(add, gradients, params))


def _orthogonal(path: str, weight: Float[Array, "... O"]) -> Float[Array, "... O"]:
    """The gradient of a kernel, whose outputs come last, or of an embedding, whose classes come first."""
    if path.endswith("embedding"):
        return orthogonal_gradient(weight)
    return orthogonal_gradient(weight.reshape(-1, weight.shape[-1]).T).T.reshape(weight.shape)
