"""MoCo v3: a view's prediction finds, among all pictures of the batch, what the teacher makes of the other view.

Source: Chen, Xie and He 2021, An Empirical Study of Training Self-Supervised Vision Transformers, algorithm 1;
facebookresearch/moco-v3.
"""

import math
from typing import Any

from jaxtyping import Array

from vitjax import health, joint_embedding, models
from vitjax.losses.contrastive import info_nce
from vitjax.models import heads
from vitjax.objective import Objective, Run


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.objective` holds temperature, momentum, projector and predictor.

    The loss is the sum over both directions, each times 2 * temperature as published. The teacher moves before it
    embeds; keys get no gradient.
    """
    settings, chunks = config.objective, config.loss_chunks
    temperature = joint_embedding.positive("temperature", settings.temperature)
    joint_embedding.count_views(config, 2, 2)
    network = joint_embedding.Network(
        backbone=models.build(config.model, run.dtype),
        projector=heads.make(settings.projector, run.dtype),
        predictor=heads.make(settings.predictor, run.dtype),
    )
    teacher = joint_embedding.Teacher(network, settings.momentum, run, ahead=True)
    chance = 4 * temperature * math.log(run.batch_size)

    def loss(params: Any, extra: Any, embedded: Any, batch: Any, key: Array, step: Array):
        pairs = list(
            zip(joint_embedding.pair(embedded["predicted"]), joint_embedding.swapped(embedded["target"]), strict=True)
        )
        value = sum(
            2 * temperature * info_nce(q, k, temperature, valid=batch["valid"], chunks=chunks) for q, k in pairs
        )
        agreement = sum(health.agreement(q, k) for q, k in pairs) / 2
        return value, joint_embedding.output(extra, embedded, batch, chance, metrics={"health/agreement": agreement})

    return joint_embedding.with_teacher(config, run, network, loss, teacher)
