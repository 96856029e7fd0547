"""LiT: a text tower learns to read for an image tower that is trained already, and locked.

Source: Zhai et al. 2022, LiT: Zero-Shot Transfer with Locked-image text Tuning, section 3.
"""

import math
from typing import Any

from jaxtyping import Array

from vitjax import image_text
from vitjax.errors import UserError
from vitjax.losses import image_text as losses
from vitjax.objective import Objective, Run

BACKBONE = "^backbone/"


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.init.backbone` names the run or export whose image tower is locked.

    The tower computes as in evaluation and gets no gradient. `config.objective` holds what CLIP's does.

    Raises:
      UserError: the optimiser would move the locked tower, by weight decay if by nothing else.
    """
    if BACKBONE not in tuple(config.optim.frozen):
        raise UserError(
            f"config.optim.frozen={tuple(config.optim.frozen)}: LiT locks the image tower; add {BACKBONE!r}, or weight "
            "decay would shrink it"
        )

    chunks = config.loss_chunks

    def loss(image: Array, text: Array, scale: Array, bias: Array, **which: Any) -> Array:
        return losses.clip(image, text, scale, chunks=chunks, **which)

    model = image_text.towers(config, run)
    return image_text.objective(config, run, model, loss, chance=math.log(run.batch_size), locked=True)
