"""Classification with labels: plain cross-entropy on top of any backbone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax import augment, models, optim, probe
from vitjax.errors import UserError
from vitjax.losses.classification import softmax_cross_entropy
from vitjax.models.classifier import Classifier
from vitjax.objective import Objective, Output, Run, State, from_loss


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.objective.label` names the label field to learn.

    Raises:
      UserError: the data has no such labels.
    """
    label = config.objective.label
    if label not in run.class_names:
        known = ", ".join(run.class_names) or "none: sort the pictures into one folder a class"
        raise UserError(f"config.objective.label={label!r} is no label of this data; it has {known}")
    num_classes = len(run.class_names[label])
    backbone = models.build(config.model, run.dtype)
    model = Classifier(backbone, num_classes)
    tx, rate = optim.make(config, run)
    size_px = config.data.size_px
    train_view, eval_view = augment.train_view(config), augment.eval_view(config)

    def init(key: Array, batch: Any) -> dict:
        return dict(model.init(key, jnp.zeros((1, size_px, size_px, 3), run.dtype)))

    def loss(params: Any, extra: Any, batch: Any, key: Array, step: Array):
        out, extra = model.apply(
            {"params": params, **extra},
            batch["image"],
            train=True,
            mutable=list(extra),
            # One draw for the batch as a whole (drop path): the micro-batches of a step must not share it.
            rngs={"dropout": jax.random.fold_in(key, batch["row"][0])},
        )
        known = batch[label] >= 0  # -1 is a picture without a label
        count = jnp.maximum(jnp.sum(known), 1)
        losses = softmax_cross_entropy(out["logits"], jnp.maximum(batch[label], 0))
        right = jnp.argmax(out["logits"], -1) == batch[label]
        metrics = {"accuracy": jnp.sum(right & known) / count}
        return jnp.sum(losses * known) / count, Output(
            extra, metrics, weight=jnp.sum(known), features=out["features"], chance=np.log(num_classes)
        )

    def export(state: State) -> dict:
        return {"params": state.params, **state.extra}

    def features(variables: Any, batch: Any, key: Array) -> Float[Array, "B D"]:
        return model.apply(variables, eval_view(batch))["features"]

    def logits(variables: Any, batch: Any, key: Array) -> Float[Array, "B K"]:
        return model.apply(variables, eval_view(batch))["logits"]

    return from_loss(
        init=init,
        loss=loss,
        tx=tx,
        rate=rate,
        views=train_view,
        export=export,
        predict={"features": features, "logits": logits},
        accum=config.accum,
        couples_examples=models.couples_examples(backbone),
        probe=probe.make(config, run),
    )
