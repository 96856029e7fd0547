"""torchvision's VGG networks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitjax.errors import UserError
from vitjax.interop import table
from vitjax.interop.table import Row
from vitjax.models import vgg

LINEAR = ("classifier.0", "classifier.3", "classifier.6")  # ReLU and dropout are between them


def rows(model: Any, head: bool = True) -> list[Row]:
    """The table of torchvision's VGG.

    Args:
      model: `config.model` of a VGG; its depth, width, norm and head_widths count. torchvision's own networks
        have two `head_widths`; without any the classifier is one linear map of the mean, 'classifier', as in
        the networks for CIFAR that keep these names.
      head: whether there is a classifier, ours at 'params/head'.

    Raises:
      UserError: another number of `head_widths`.
    """
    if len(model.head_widths) not in (0, 2):
        raise UserError(f"config.model.head_widths={model.head_widths}: torchvision's VGG has two, or use ()")
    named = LINEAR if model.head_widths else ("classifier",)
    return layers(vgg.stages(model.depth, model.width), model.norm, named if head else named[:-1], head)


def layers(
    stages: Sequence[Sequence[int]], norm: bool, linear: Sequence[str], head: bool = True
) -> list[Row]:
    """The table of a VGG with these channels, whose linear layers have the names `linear`."""
    out: list[Row] = []
    at = 0  # their number in one sequence of convolutions, norms, ReLUs and maxima
    for stage, widths in enumerate(stages, start=1):
        for i in range(len(widths)):
            out += _conv(f"stage{stage}_conv{i}", f"features.{at}")
            if norm:
                out += table.batch_norm(f"backbone/stage{stage}_norm{i}", f"features.{at + 1}")
            at += 3 if norm else 2
        at += 1
    hidden = linear[:-1] if head else linear
    for i, name in enumerate(hidden, start=1):
        ours = f"params/backbone/fc{i}"
        kernel, bias = table.linear(ours, name)
        out += [_flattened(*kernel.ours, *kernel.theirs) if i == 1 else kernel, bias]
    return out + (table.linear("params/head", linear[-1]) if head else [])


def _conv(ours: str, theirs: str) -> list[Row]:
    return [table.conv(f"params/backbone/{ours}", theirs), table.bias(f"params/backbone/{ours}", theirs)]


def _flattened(ours: str, theirs: str) -> Row:
    """The first linear layer: they flatten (channel, row, column), we (row, column, channel)."""
    side = vgg.HEAD_GRID

    def read(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1, side, side).transpose(2, 3, 1, 0).reshape(-1, len(x))

    def write(x: np.ndarray) -> np.ndarray:
        return x.reshape(side, side, -1, x.shape[1]).transpose(3, 2, 0, 1).reshape(x.shape[1], -1)

    return table.one(ours, theirs, read, write)
