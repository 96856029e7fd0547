"""VGG networks of 11 to 19 layers, with batch norm or without (Simonyan and Zisserman 2015)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax import sharding
from vitjax.errors import UserError
from vitjax.models.layers import batch_norm, conv

# Convolutions in each of the five stages; a depth counts them and the three linear layers of the paper.
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDENING = (1, 2, 4, 8, 8)  # a stage's channels over those of the first
HEAD_GRID = 7  # rows and columns of places that the linear layers see


def make(config: Any, dtype: Any = jnp.float32) -> "VGG":
    """The backbone that `config.model` describes.

    Raises:
      UserError: a depth that is not among the choices, a width below one, or a dropout outside 0..1.
    """
    if config.depth not in DEPTHS:
        known = ", ".join(str(d) for d in DEPTHS)
        raise UserError(f"config.model.depth={config.depth} is not known; choose from {known}")
    if config.width < 1 or any(width < 1 for width in config.head_widths):
        raise UserError(
            f"config.model.width={config.width} and config.model.head_widths={config.head_widths} must be 1 "
            "or more; the published network has 64 and (4096, 4096)"
        )
    if not 0.0 <= config.dropout < 1.0:
        raise UserError(f"config.model.dropout={config.dropout} must lie in 0..1; the paper has 0.5")
    return VGG(
        stages=stages(config.depth, config.width),
        norm=config.norm,
        head_widths=tuple(config.head_widths),
        dropout=config.dropout,
        dtype=dtype,
    )


def stages(depth: int, width: int = 64) -> tuple[tuple[int, ...], ...]:
    """The channels of each convolution, stage by stage."""
    return tuple((width * wider,) * count for wider, count in zip(WIDENING, DEPTHS[depth]))


class VGG(nn.Module):
    """{'features': float32 [B, D], 'tokens': [B, h, w, C]} of normalised pictures [B, H, W, 3].

    Without `head_widths` the features are the mean over places, as usual for CIFAR; with the published
    (4096, 4096) they are what two linear layers make of 7 x 7 places, nine tenths of all parameters. A last
    linear map to the classes belongs to the classifier. Convolutions have a bias, before batch norm too, as
    the weights that are about. Without batch norm a learning rate of 0.1 does not train from scratch.

    Attributes:
      norm: whether there is batch norm; with `train`, the collection 'batch_stats' must then be mutable.
      dropout: after each linear layer, in training; it needs the random stream 'dropout'.

    Raises:
      UserError: pictures so small that nothing is left of them after the last stage.
    """

    stages: tuple[tuple[int, ...], ...]
    norm: bool = True
    head_widths: tuple[int, ...] = ()
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @property
    def COUPLES_EXAMPLES(self) -> bool:
        return self.norm

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool = False) -> dict[str, Array]:
        smallest = 2 ** len(self.stages)  # each stage halves the picture
        if min(images.shape[1:3]) < smallest:
            raise UserError(
                f"data.size_px={min(images.shape[1:3])} is too small for this VGG; try {smallest}"
            )
        x = images.astype(self.dtype)
        for stage, widths in enumerate(self.stages, start=1):
            x = sharding.constrain(x, "batch")
            for i, width in enumerate(widths):
                x = conv(x, width, 3, 1, f"stage{stage}_conv{i}", bias=True)
                x = batch_norm(x, train, f"stage{stage}_norm{i}") if self.norm else x
                x = nn.relu(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return {"features": self._features(x, train).astype(jnp.float32), "tokens": x}

    def _features(self, x: Float[Array, "B h w C"], train: bool) -> Float[Array, "B D"]:
        if not self.head_widths:
            return x.mean(axis=(1, 2), dtype=jnp.float32)
        x = adaptive_mean(x, HEAD_GRID)
        x = x.reshape(len(x), -1)  # (row, column, channel), where torch has the channel first
        for i, width in enumerate(self.head_widths, start=1):
            init = nn.initializers.normal(0.01)
            x = nn.relu(nn.Dense(width, dtype=self.dtype, kernel_init=init, name=f"fc{i}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return x


def adaptive_mean(x: Float[Array, "B h w C"], side: int) -> Float[Array, "B S S C"]:
    """Means over `side` x `side` cells that overlap, or repeat a place, where `side` does not divide h or w.

    Cell i covers floor(i h / side) up to ceil((i + 1) h / side), as in torch.
    """
    if x.shape[1:3] == (side, side):
        return x
    rows, columns = (jnp.asarray(_cells(n, side), x.dtype) for n in x.shape[1:3])
    return jnp.einsum("bhwc,sh,tw->bstc", x, rows, columns)


def _cells(length: int, side: int) -> Float[np.ndarray, "S length"]:
    cells = np.zeros((side, length))
    for i in range(side):
        first, last = i * length // side, -(-(i + 1) * length // side)
        cells[i, first:last] = 1 / (last - first)
    return cells
