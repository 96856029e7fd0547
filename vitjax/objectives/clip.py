"""CLIP: each picture finds its caption among those of the batch, and each caption its picture.

Source: Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision, figure 3.
"""

import math
from typing import Any

from jaxtyping import Array

from vitjax import image_text
from vitjax.losses import image_text as losses
from vitjax.objective import Objective, Run


def make(config: Any, run: Run) -> Objective:
    """The objective; `config.objective` holds max_scale and multi_positive.

    `max_scale` bounds the learned factor of the cosines after each step (100 as published). With `multi_positive` equal
    captions of a batch are all right for the pictures of any of them, which differs from the plain loss only where the
    text tower makes different embeddings of equal texts.
    """
    chunks = config.loss_chunks

    def loss(image: Array, text: Array, scale: Array, bias: Array, **which: Any) -> Array:
        return losses.clip(image, text, scale, chunks=chunks, **which)

    model = image_text.towers(config, run)
    return image_text.objective(config, run, model, loss, chance=math.log(run.batch_size))
