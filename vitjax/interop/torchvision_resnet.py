"""torchvision's residual networks; timm's have the same names."""

from typing import Any

from vitjax.interop import table
from vitjax.interop.table import Row
from vitjax.models import resnet


def rows(model: Any, head: bool = True) -> list[Row]:
    """The table of torchvision's ResNet.

    Args:
      model: `config.model` of a ResNet; its depth counts.
      head: whether there is a classifier, ours at 'params/head'.
    """
    return stages(resnet.DEPTHS[model.depth], model.depth >= 50, head)


def stages(blocks: tuple[int, ...], bottleneck: bool, head: bool = True) -> list[Row]:
    """The table of a ResNet with `blocks` blocks in its stages."""
    out = _conv_norm("stem_conv", "conv1", "stem_norm", "bn1")
    for stage, depth in enumerate(blocks, start=1):
        for i in range(depth):
            ours, theirs = f"stage{stage}_{i}", f"layer{stage}.{i}"
            for c in range(1, 4 if bottleneck else 3):
                out += _conv_norm(
                    f"{ours}/conv{c}", f"{theirs}.conv{c}", f"{ours}/norm{c}", f"{theirs}.bn{c}"
                )
            # The first block of a stage changes the shape; not so stage 1 of basic blocks.
            if i == 0 and (stage > 1 or bottleneck):
                out += _conv_norm(
                    f"{ours}/shortcut_conv",
                    f"{theirs}.downsample.0",
                    f"{ours}/shortcut_norm",
                    f"{theirs}.downsample.1",
                )
    return out + (table.linear("params/head", "fc") if head else [])


def _conv_norm(our_conv: str, their_conv: str, our_norm: str, their_norm: str) -> list[Row]:
    """A convolution and the batch norm after it."""
    return [
        table.conv(f"params/backbone/{our_conv}", their_conv),
        *table.batch_norm(f"backbone/{our_norm}", their_norm),
    ]
