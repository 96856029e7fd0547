"""BYOL: a predictor on one view's embedding meets what a slowly moving teacher makes of the other view.

Source: Grill et al. 2020, Bootstrap Your Own Latent, section 3 and appendix; deepmind-research/byol.
"""

from typing import Any

from jaxtyping import Array

from vitjax import health, joint_embedding, models
from vitjax.losses.regression import unit_regression
from vitjax.models import heads
from vitjax.objective import Objective, Run


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.objective` holds momentum, projector and predictor.

    The loss is the sum over both directions, from 0 to 8. The teacher starts as a copy, where the original draws its
    own weights; it moves after the step, by a momentum that ends at exactly 1.
    """
    settings = config.objective
    joint_embedding.count_views(config, 2, 2)
    network = joint_embedding.Network(
        backbone=models.build(config.model, run.dtype),
        projector=heads.make(settings.projector, run.dtype),
        predictor=heads.make(settings.predictor, run.dtype),
    )
    teacher = joint_embedding.Teacher(network, settings.momentum, run)

    def loss(params: Any, extra: Any, embedded: Any, batch: Any, key: Array, step: Array):
        pairs = list(
            zip(joint_embedding.pair(embedded["predicted"]), joint_embedding.swapped(embedded["target"]), strict=True)
        )
        value = sum(unit_regression(p, target, valid=batch["valid"]) for p, target in pairs)
        agreement = sum(health.agreement(p, target) for p, target in pairs) / 2
        return value, joint_embedding.output(extra, embedded, batch, metrics={"health/agreement": agreement})

    return joint_embedding.with_teacher(config, run, network, loss, teacher)
