"""DCGAN: a generator and a discriminator of plain convolutions, which learn from each other.

Source: Radford et al., 2016, Unsupervised representation learning with deep convolutional generative adversarial
networks, section 4.
"""

from typing import Any

from vitjax import adversarial
from vitjax.errors import UserError
from vitjax.models import dcgan
from vitjax.objective import Objective, Run


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.objective` holds the rules of the game, see `vitjax.adversarial`.

    Raises:
      UserError: a loss that needs a bounded slope, and nothing that bounds it; and see `vitjax.adversarial`.
    """
    generator, discriminator = dcgan.players(config.model, config.data.size_px, run.dtype)
    if config.objective.loss == "wasserstein" and not config.objective.r1:
        raise UserError(
            "config.objective.loss='wasserstein': nothing bounds this discriminator's slope; set "
            "config.objective.r1=10.0, use 'non_saturating', or config.objective.name='biggan', whose weights are "
            "normalised"
        )
    return adversarial.objective(config, run, generator, discriminator)
