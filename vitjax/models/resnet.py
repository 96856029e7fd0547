"""Residual networks of 10 to 152 layers, v1.5: the stride is on the 3x3 convolution (He et al. 2016)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax import sharding
from vitjax.errors import UserError
from vitjax.models.layers import batch_norm, conv

# 10 is none of the paper's: one block a stage, for what has to be small.
DEPTHS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
STEMS = ("imagenet", "cifar", "cifar_half")


def make(config: Any, dtype: Any = jnp.float32) -> "ResNet":
    """The backbone that `config.model` describes.

    Raises:
      UserError: a depth or a stem that is not among the choices, or a width below one.
    """
    if config.depth not in DEPTHS:
        known = ", ".join(str(d) for d in DEPTHS)
        raise UserError(f"config.model.depth={config.depth} is not known; choose from {known}")
    if config.stem not in STEMS:
        raise UserError(f"config.model.stem={config.stem!r} is not known; choose from {', '.join(STEMS)}")
    if config.width < 1:
        raise UserError(
            f"config.model.width={config.width} must be 1 or more; 64 is the published network, 128 its x2"
        )
    return ResNet(
        blocks=DEPTHS[config.depth],
        bottleneck=config.depth >= 50,
        width=config.width,
        stem=config.stem,
        zero_init_residual=config.zero_init_residual,
        dtype=dtype,
    )


class ResNet(nn.Module):
    """{'features': float32 [B, D], 'tokens': [B, h, w, D]} of normalised pictures [B, H, W, 3].

    Features are the mean over places. `width` is the channels of the stem: 64 in the published networks, 128
    and 256 in those that SimCLR and BYOL call x2 and x4. With `train`, the collection 'batch_stats' must be
    mutable.
    """

    COUPLES_EXAMPLES = True

    blocks: tuple[int, ...]
    bottleneck: bool
    width: int = 64
    stem: str = "imagenet"
    zero_init_residual: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool = False) -> dict[str, Array]:
        x = self._stem(images.astype(self.dtype), train)
        for stage, depth in enumerate(self.blocks):
            for i in range(depth):
                x = ResBlock(
                    width=self.width * 2**stage,
                    stride=2 if stage > 0 and i == 0 else 1,
                    bottleneck=self.bottleneck,
                    zero_init_residual=self.zero_init_residual,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_{i}",
                )(x, train)
        return {"features": x.mean(axis=(1, 2), dtype=jnp.float32), "tokens": x}

    def _stem(self, x: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w C"]:
        """7x7 with stride 2 and a maximum, or for pictures of 32 px a plain 3x3.

        'cifar_half' is that 3x3 with stride 2: a quarter of the cost of every stage, for CPUs.
        """
        kernel, stride = {"imagenet": (7, 2), "cifar": (3, 1), "cifar_half": (3, 2)}[self.stem]
        x = nn.relu(batch_norm(conv(x, self.width, kernel, stride, "stem_conv"), train, "stem_norm"))
        if self.stem != "imagenet":
            return x
        # nn.max_pool pads with -inf.
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


class ResBlock(nn.Module):
    """relu(shortcut + branch), the branch two 3x3 convolutions or a bottleneck.

    The shortcut is projected where its shape would not fit.
    """

    width: int
    stride: int
    bottleneck: bool
    zero_init_residual: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w D"]:
        x = sharding.constrain(x, "batch")
        out = self.width * (4 if self.bottleneck else 1)
        # (channels, kernel, stride) of the branch's convolutions.
        convs = [(self.width, 3, self.stride), (out, 3, 1)]
        if self.bottleneck:
            convs = [(self.width, 1, 1), (self.width, 3, self.stride), (out, 1, 1)]
        y = x
        for i, (channels, kernel, stride) in enumerate(convs, start=1):
            last = i == len(convs)
            y = conv(y, channels, kernel, stride, f"conv{i}")
            y = batch_norm(y, train, f"norm{i}", zero=last and self.zero_init_residual)
            y = y if last else nn.relu(y)
        if x.shape[-1] != out or self.stride != 1:
            x = batch_norm(conv(x, out, 1, self.stride, "shortcut_conv"), train, "shortcut_norm")
        return nn.relu(x + y)
