"""The online probe: a linear head on detached features, trained beside the method, to see it learn as it does.

It has its own optimiser, outside the method's clipping, and lives in `State.extra` under its name: it is saved,
sharded and resumed with all else, and is neither shown to the method nor exported. With it or without it the method
gets the same gradients, to the bit.

The accuracy is that of the batch before the probe learns from it, on augmented training pictures: a curve to follow,
not a result. Results are those of `vitjax.evals`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vitjax.errors import UserError

NAME = "probe"
Tree = Any


class Probe(NamedTuple):
    """A small learner beside the method.

    Attributes:
      init: (shape of the features) -> state.
      update: (state, features, batch) -> (state, {name: scalar}).
    """

    init: Callable[[tuple[int, ...]], Tree]
    update: Callable[[Tree, Float[Array, "B D"], Mapping[str, Array]], tuple[Tree, dict[str, Array]]]


def make(config: Any, run: Any) -> Probe | None:
    """The probe of `config.probe`, for the labels of its `field`; None where that is ''.

    Features are standardised by their own batch, since their scale is the method's business and changes; Adam, because
    the curvature that is left differs between methods by orders of magnitude.

    Raises:
      UserError: the data has no such labels, or a rate that is none.
    """
    field, rate = config.probe.field, config.probe.lr
    if not field:
        return None
    if field not in run.class_names:
        known = ", ".join(run.class_names) or "none, so that only '' is possible"
        raise UserError(f"config.probe.field={field!r} is no label of this data; it has {known}")
    if rate <= 0:
        raise UserError(f"config.probe.lr={rate} must be above 0; 0.001 suits most features")
    num_classes, tx = len(run.class_names[field]), optax.adam(rate)

    def init(shape: tuple[int, ...]) -> Tree:
        params = {"kernel": jnp.zeros((shape[-1], num_classes)), "bias": jnp.zeros((num_classes,))}
        return {"params": params, "opt": tx.init(params)}

    def update(state: Tree, features: Float[Array, "B D"], batch: Mapping[str, Array]):
        x, labels = standardised(features), batch[field]
        grads, metrics = jax.grad(_loss, has_aux=True)(state["params"], x, labels)
        updates, opt = tx.update(grads, state["opt"])
        new = {"params": optax.apply_updates(state["params"], updates), "opt": opt}
        # Nobody else refuses what is not finite here: that says nothing about the method's update.
        finite = jnp.isfinite(metrics["loss"])
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        return new, {f"{NAME}/{name}": value for name, value in metrics.items()}

    return Probe(init, update)


def without(extra: Mapping[str, Tree]) -> dict[str, Tree]:
    """What the method knows of `extra`."""
    return {name: tree for name, tree in extra.items() if name != NAME}


def standardised(features: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Mean 0 and spread 1 of every entry over the batch, detached; an entry that never changes is 0."""
    x = jax.lax.stop_gradient(features).astype(jnp.float32)
    return (x - jnp.mean(x, axis=0)) * jax.lax.rsqrt(jnp.var(x, axis=0) + 1e-6)


def _loss(params: Tree, x: Float[Array, "B D"], labels: Array) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Mean cross-entropy of the labelled pictures, and what is logged; -1 is a picture without a label."""
    logits = x @ params["kernel"] + params["bias"]
    known = labels >= 0
    count = jnp.maximum(jnp.sum(known), 1)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    loss = jnp.sum(losses * known) / count
    right = (jnp.argmax(logits, -1) == labels) & known
    return loss, {"loss": loss, "accuracy": jnp.sum(right) / count}
