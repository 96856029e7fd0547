"""VICReg: two views' embeddings agree, every dimension varies, and no two dimensions vary together.

Source: Bardes, Ponce and LeCun 2022, VICReg, equations 1 to 6; facebookresearch/vicreg.
"""

from typing import Any

from jaxtyping import Array

from vitjax import joint_embedding, models
from vitjax.losses.redundancy import vicreg
from vitjax.models import heads
from vitjax.objective import Objective, Run


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.objective` holds invariance, variance, covariance, halved_variance and projector.

    The published code halves the variance term that the paper adds up: halved_variance=True is the code's.
    """
    settings = config.objective
    weights = {
        name: joint_embedding.positive(name, getattr(settings, name))
        for name in ("invariance", "variance", "covariance")
    }
    halved = settings.halved_variance
    joint_embedding.count_views(config, 2, 2)
    network = joint_embedding.Network(
        backbone=models.build(config.model, run.dtype), projector=heads.make(settings.projector, run.dtype)
    )

    def loss(params: Any, extra: Any, embedded: Any, batch: Any, key: Array, step: Array):
        z1, z2 = joint_embedding.pair(embedded["projected"])
        terms = vicreg(z1, z2, **weights, halved=halved, valid=batch["valid"])
        return terms.pop("loss"), joint_embedding.output(extra, embedded, batch, metrics=terms)

    return joint_embedding.objective(config, run, network, loss)
