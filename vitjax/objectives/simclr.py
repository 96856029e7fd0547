"""SimCLR: two views of a picture find each other among all the others of the batch.

Source: Chen et al. 2020, A Simple Framework for Contrastive Learning of Visual Representations, section 2; Chen et al.
2020, Big Self-Supervised Models are Strong Semi-Supervised Learners (the deeper projector).
"""

import math
from typing import Any

from jaxtyping import Array

from vitjax import joint_embedding, models
from vitjax.losses.contrastive import nt_xent
from vitjax.models import heads
from vitjax.objective import Objective, Run


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.objective` holds temperature and projector.

    The loss is the mean over the 2 B views; Google's code adds two means, which is twice as much.
    """
    settings, chunks = config.objective, config.loss_chunks
    temperature = joint_embedding.positive("temperature", settings.temperature)
    joint_embedding.count_views(config, 2, 2)
    network = joint_embedding.Network(
        backbone=models.build(config.model, run.dtype),
        projector=heads.make(settings.projector, run.dtype),
        joint=True,
    )
    chance = math.log(2 * run.batch_size - 1)

    def loss(params: Any, extra: Any, embedded: Any, batch: Any, key: Array, step: Array):
        z1, z2 = joint_embedding.pair(embedded["projected"])
        value = nt_xent(z1, z2, temperature, valid=batch["valid"], chunks=chunks)
        return value, joint_embedding.output(extra, embedded, batch, chance)

    return joint_embedding.objective(config, run, network, loss)
