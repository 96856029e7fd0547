"""Siamese networks with a margin: embeddings of like pictures lie close, of others at least a margin apart.

Source: Hadsell, Chopra and LeCun 2006, Dimensionality Reduction by Learning an Invariant Mapping, equation 4, whose
labels have the opposite sense.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vitjax import joint_embedding, models
from vitjax.errors import UserError
from vitjax.losses.contrastive import margin_contrastive
from vitjax.models import heads
from vitjax.objective import Objective, Run


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.objective` holds margin, label and projector.

    Every picture is in one pair of likes and in one of unlikes, drawn from the batch. With `label` likes are two
    pictures of a class; without, or where a class has one picture only, two views of the picture.

    Raises:
      UserError: the data has no such labels.
    """
    settings = config.objective
    margin, label = joint_embedding.positive("margin", settings.margin), settings.label
    if label and label not in run.class_names:
        known = ", ".join(run.class_names) or "none"
        raise UserError(
            f"config.objective.label={label!r} is no label of this data; it has {known}; '' pairs views of a picture"
        )
    joint_embedding.count_views(config, 2, 2)
    network = joint_embedding.Network(
        backbone=models.build(config.model, run.dtype), projector=heads.make(settings.projector, run.dtype), joint=True
    )

    def loss(params: Any, extra: Any, embedded: Any, batch: Any, key: Array, step: Array):
        z1, z2 = joint_embedding.pair(embedded["projected"])
        valid, rows = batch["valid"], jnp.arange(len(z1))
        # -1 is a picture without a label: it is like itself alone.
        known = batch[label] >= 0 if label else jnp.zeros(len(z1), bool)
        ids = jnp.where(known, batch[label] if label else 0, -1 - rows)
        partner, same, usable = _partners(key, ids, valid)
        value = margin_contrastive(
            jnp.concatenate([z1, z1]), z2[partner], same, margin, valid=usable & jnp.concatenate([valid, valid])
        )
        return value, joint_embedding.output(extra, embedded, batch)

    return joint_embedding.objective(config, run, network, loss)


def _partners(
    key: Array, ids: Int[Array, " B"], valid: Bool[Array, " B"]
) -> tuple[Int[Array, " 2B"], Bool[Array, " 2B"], Bool[Array, " 2B"]]:
    """(row, same, usable): a like of each picture and then an unlike of each, drawn among the valid ones."""
    noise: Float[Array, "B B"] = jax.random.uniform(key, (len(ids), len(ids)))
    alike = ids[:, None] == ids[None]
    itself = jnp.eye(len(ids), dtype=bool)
    # A like is another picture where there is one: its own view scores less than any.
    like = jnp.where(alike & valid[None], jnp.where(itself, 0.0, 1.0 + noise), -1.0)
    unlike = jnp.where(~alike & valid[None], noise, -1.0)
    usable = jnp.concatenate([jnp.max(like, axis=1), jnp.max(unlike, axis=1)]) >= 0
    same = jnp.arange(2 * len(ids)) < len(ids)
    return jnp.concatenate([jnp.argmax(like, axis=1), jnp.argmax(unlike, axis=1)]), same, usable
