"""Barlow Twins: the dimensions of two views' embeddings correlate each with itself and with no other.

Source: Zbontar et al. 2021, Barlow Twins: Self-Supervised Learning via Redundancy Reduction, equation 1.
"""

from typing import Any

from jaxtyping import Array

from vitjax import joint_embedding, models
from vitjax.losses.redundancy import barlow_twins
from vitjax.models import heads
from vitjax.objective import Objective, Run


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.objective` holds off_diagonal (lambda), scale and projector.

    `scale` multiplies the loss: 1 in the paper, 0.1 in solo-learn's CIFAR recipe.
    """
    settings = config.objective
    off_diagonal = joint_embedding.positive("off_diagonal", settings.off_diagonal)
    scale = joint_embedding.positive("scale", settings.scale)
    joint_embedding.count_views(config, 2, 2)
    network = joint_embedding.Network(
        backbone=models.build(config.model, run.dtype), projector=heads.make(settings.projector, run.dtype)
    )

    def loss(params: Any, extra: Any, embedded: Any, batch: Any, key: Array, step: Array):
        z1, z2 = joint_embedding.pair(embedded["projected"])
        value = scale * barlow_twins(z1, z2, off_diagonal, valid=batch["valid"])
        return value, joint_embedding.output(extra, embedded, batch)

    return joint_embedding.objective(config, run, network, loss)
