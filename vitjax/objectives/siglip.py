"""SigLIP: for each picture and each caption of the batch, say whether they belong together.

Source: Zhai et al. 2023, Sigmoid Loss for Language Image Pre-Training, section 3.2.
"""

import functools
from typing import Any

from vitjax import image_text
from vitjax.errors import UserError
from vitjax.losses.image_text import siglip
from vitjax.objective import Objective, Run


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.objective` holds max_scale (0: no bound, as published) and multi_positive.

    Raises:
      UserError: the towers have no bias, without which the first steps are lost.
    """
    if config.towers.bias is None:
        raise UserError(
            "config.towers.bias=None: almost no pair matches, and the sigmoid loss begins far off without a bias that "
            "says so; use -10.0"
        )
    model = image_text.towers(config, run)
    return image_text.objective(config, run, model, functools.partial(siglip, chunks=config.loss_chunks))
