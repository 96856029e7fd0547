"""SimSiam: a predictor on one view's embedding meets the other view's embedding, which gets no gradient.

Source: Chen and He 2021, Exploring Simple Siamese Representation Learning, algorithm 1; facebookresearch/simsiam.
"""

from typing import Any

from jaxtyping import Array

from vitjax import joint_embedding, models
from vitjax.losses.regression import negative_cosine
from vitjax.models import heads
from vitjax.objective import Objective, Run


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.objective` holds projector, predictor and stop_gradient.

    The loss is the mean of both directions, from -1 to 1. Without `stop_gradient` all embeddings become one (the
    paper's figure 2): a way to see what collapse looks like, and that it is noticed.
    """
    settings = config.objective
    joint_embedding.count_views(config, 2, 2)
    network = joint_embedding.Network(
        backbone=models.build(config.model, run.dtype),
        projector=heads.make(settings.projector, run.dtype),
        predictor=heads.make(settings.predictor, run.dtype),
    )
    stop_gradient = settings.stop_gradient

    def loss(params: Any, extra: Any, embedded: Any, batch: Any, key: Array, step: Array):
        z1, z2 = joint_embedding.pair(embedded["projected"])
        target2, target1 = joint_embedding.swapped(embedded["projected"]) if stop_gradient else (z2, z1)
        p1, p2 = joint_embedding.pair(embedded["predicted"])
        directions = ((p1, target2), (p2, target1))
        value = sum(negative_cosine(p, target, valid=batch["valid"]) for p, target in directions) / 2
        return value, joint_embedding.output(extra, embedded, batch)

    return joint_embedding.objective(config, run, network, loss)
