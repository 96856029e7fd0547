"""CLIP's ResNets: three convolutions as stem, strides by average pooling, attention instead of the mean.

Source: Radford et al., 2021, CLIP, section 2.4; the authors' repository, clip/model.py.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax import sharding
from vitjax.errors import UserError
from vitjax.models import vit
from vitjax.models.layers import batch_norm, conv

STRIDE_PX = 32  # a pixel of the last map stands for so many


def make(config: Any, dtype: Any = jnp.float32) -> "ClipResNet":
    """The backbone that `config.model` describes.

    Raises:
      UserError: numbers that do not fit together.
    """
    if len(config.blocks) != 4 or min(config.blocks) < 1:
        raise UserError(f"config.model.blocks={tuple(config.blocks)} must be four numbers, such as (3, 4, 6, 3)")
    if config.width < 2 or config.width % 2:
        raise UserError(f"config.model.width={config.width} must be even; CLIP's ResNet-50 has 64")
    if STRIDE_PX * config.width % config.heads:
        raise UserError(
            f"config.model.heads={config.heads} must divide 32 * config.model.width={STRIDE_PX * config.width}"
        )
    return ClipResNet(
        blocks=tuple(config.blocks),
        width=config.width,
        heads=config.heads,
        zero_init_residual=config.zero_init_residual,
        dtype=dtype,
    )


class ClipResNet(nn.Module):
    """{'features': float32 [B, D], 'tokens': [B, h, w, D]} of normalised pictures [B, H, W, 3]; D = 32 width.

    The features are what the attention pool collects, heads side by side; the last linear map of that attention
    is for CLIP the projection to the embedding, and is kept there (`models.two_towers`). With `train`, the
    collection 'batch_stats' must be mutable. Pictures must have the size that the positions were made for.
    """

    COUPLES_EXAMPLES = True

    blocks: tuple[int, ...]
    width: int
    heads: int
    zero_init_residual: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool = False) -> dict[str, Array]:
        if min(images.shape[1:3]) < STRIDE_PX:
            raise UserError(f"pictures of {images.shape[1:3]} px are too small for CLIP's ResNet; give 32 or more")
        x = self._stem(images.astype(self.dtype), train)
        for stage, depth in enumerate(self.blocks):
            for i in range(depth):
                x = Bottleneck(
                    width=self.width * 2**stage,
                    stride=2 if stage > 0 and i == 0 else 1,
                    zero_init_residual=self.zero_init_residual,
                    name=f"stage{stage + 1}_{i}",
                )(x, train)
        pooled = AttentionPool(self.heads, self.dtype, name="pool")(x)
        return {"features": pooled.astype(jnp.float32), "tokens": x}

    def _stem(self, x: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w C"]:
        for i, (channels, stride) in enumerate([(self.width // 2, 2), (self.width // 2, 1), (self.width, 1)], 1):
            x = nn.relu(batch_norm(conv(x, channels, 3, stride, f"stem_conv{i}"), train, f"stem_norm{i}"))
        return _halved(x)


class Bottleneck(nn.Module):
    """relu(shortcut + branch): no convolution has a stride, an average over 2x2 stands before the last one.

    The shortcut, averaged too, is projected where its shape would not fit.
    """

    width: int
    stride: int
    zero_init_residual: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w D"]:
        x = sharding.constrain(x, "batch")
        halve = _halved if self.stride == 2 else lambda x: x
        y = nn.relu(batch_norm(conv(x, self.width, 1, 1, "conv1"), train, "norm1"))
        y = halve(nn.relu(batch_norm(conv(y, self.width, 3, 1, "conv2"), train, "norm2")))
        y = batch_norm(conv(y, 4 * self.width, 1, 1, "conv3"), train, "norm3", zero=self.zero_init_residual)
        if self.stride == 2 or x.shape[-1] != 4 * self.width:
            x = batch_norm(conv(halve(x), 4 * self.width, 1, 1, "shortcut_conv"), train, "shortcut_norm")
        return nn.relu(x + y)


class AttentionPool(nn.Module):
    """What the mean of a map, as a query, collects from it and from itself; each place has a learned position."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B D"]:
        width = x.shape[-1]
        init = nn.initializers.normal(width**-0.5)
        x = x.reshape(len(x), -1, width)
        mean = x.mean(axis=1, keepdims=True, dtype=jnp.float32).astype(self.dtype)
        x = jnp.concatenate([mean, x], axis=1)
        x = x + self.param("position", init, (1, x.shape[1], width)).astype(self.dtype)
        q = vit.linear(x[:, :1], width, self.dtype, "q", init=init)
        k, v = jnp.split(vit.linear(x, 2 * width, self.dtype, "kv", init=init), 2, axis=-1)
        return vit.attend(q, k, v, self.heads)[:, 0]


def _halved(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """The mean of each 2x2; an odd last row or column is left out, as in torch."""
    return nn.avg_pool(x, (2, 2), strides=(2, 2))
