"""Layers that the convolutional networks and the heads share, to be called from compact methods."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.models.convolution import convolve

MOMENTUM = 0.9  # of batch norms: the share of a running average that stays
KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # torchvision's, of convolutions


def conv(
    x: Float[Array, "B H W C"], channels: int, kernel: int, stride: int, name: str, bias: bool = False
) -> Float[Array, "B h w D"]:
    """A convolution that pads as torch does, the same on both sides.

    'SAME' pads stride 2 on one side only and gives other numbers.
    """
    pad = (kernel // 2, kernel // 2)
    layer = nn.Conv(
        channels,
        (kernel, kernel),
        strides=(stride, stride),
        padding=(pad, pad),
        use_bias=bias,
        dtype=x.dtype,
        kernel_init=KAIMING,
        conv_general_dilated=convolve,
        name=name,
    )
    return layer(x)


def batch_norm(
    x: Float[Array, "*B C"],
    train: bool,
    name: str,
    zero: bool = False,
    scale: bool = True,
    centre: bool = True,
    dtype: Any = None,
) -> Float[Array, "*B C"]:
    """Batch norm over all axes but the last; statistics are float32 and, in a step, those of the global batch.

    flax's momentum of 0.9 is torch's 0.1. Running variances are the biased ones, where torch keeps unbiased
    ones.

    Args:
      zero: starts the scale at 0, so that a residual block starts as its shortcut.
      scale, centre: whether there is a learned scale and a learned mean.
      dtype: of the result; that of `x` by default.
    """
    norm = nn.BatchNorm(
        use_running_average=not train,
        momentum=MOMENTUM,
        epsilon=1e-5,
        dtype=jnp.dtype(dtype or x.dtype),
        use_bias=centre,
        use_scale=scale,
        scale_init=nn.initializers.zeros if zero else nn.initializers.ones,
        name=name,
    )
    return norm(x)
