"""A linear classifier on any backbone."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class Classifier(nn.Module):
    """{'logits': float32 [B, K], 'features': float32 [B, D]}; the head always computes in float32.

    `head_std` = 0 starts from a zero kernel, at which every class is equally likely and the backbone gets no
    gradient in the first step; MAE fine-tunes from a normal of 2e-5.
    """

    backbone: nn.Module
    num_classes: int
    head_std: float = 0.0
    head_bias: float = 0.0

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool = False) -> dict[str, Any]:
        features = self.backbone(images, train)["features"].astype(jnp.float32)
        head = nn.Dense(
            self.num_classes,
            kernel_init=nn.initializers.normal(self.head_std),
            bias_init=nn.initializers.constant(self.head_bias),
            name="head",
        )
        return {"logits": head(features), "features": features}
