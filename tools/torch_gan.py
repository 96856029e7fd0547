"""DCGAN in plain PyTorch, for `bench_step.py --against=torch`: both players, their losses, the generator's average.

The networks carry the names of pytorch/examples. A round is vitjax's: the discriminator learns from real pictures and
from made ones, apart, then the generator from new ones. What vitjax does beyond that counts against it: the shares
that are judged right, the spread of pictures, and batch statistics of real pictures alone, where here those of made
ones enter too. No loss depends on them.
"""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import swa_utils

from vitjax.interop import gan, table
from vitjax.models import dcgan

# Settings whose other values have no counterpart here.
ONLY = {
    "objective.loss": "non_saturating",
    "objective.discriminator_steps": 1,
    "objective.r1": 0.0,
    "objective.diff_augment": (),
    "objective.ema_buffers": True,
}


class DCGAN(nn.Module):
    """Both players, and the average of the one that makes pictures.

    Args:
      objective: `config.objective` of DCGAN.
    """

    def __init__(self, width: int, layers: int, objective: Any):
        super().__init__()
        self.generator = generator(objective.z_dim, width, layers)
        self.discriminator = discriminator(width, layers)
        self.ema = copy.deepcopy(self.generator).requires_grad_(False) if objective.ema_decay else None
        self._decay, self._start, self._rounds = objective.ema_decay, objective.ema_start, 0

    def discriminator_loss(self, images: Tensor, z: Tensor) -> Tensor:
        """Of real pictures [B, 3, S, S] and of those made from the latents [B, Z]."""
        with torch.no_grad():
            fake = self._made(z)
        real_logits, fake_logits = self.discriminator(images), self.discriminator(fake)
        return F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()

    def generator_loss(self, z: Tensor) -> Tensor:
        """Of the pictures made from the latents [B, Z]; the discriminator's weights get no gradients."""
        weights = {name: x.detach() for name, x in self.discriminator.named_parameters()}
        logits = torch.func.functional_call(self.discriminator, weights, self._made(z))
        return F.softplus(-logits.float()).mean()

    def average(self) -> None:
        """Ends a round: the average moves, and is a copy in the rounds before its start."""
        if self.ema is None:
            return
        decay = self._decay if self._rounds >= self._start else 0.0
        swa_utils.get_ema_multi_avg_fn(decay)(_floats(self.ema), _floats(self.generator), None)
        self._rounds += 1

    def _made(self, z: Tensor) -> Tensor:
        return self.generator(z).float().tanh()


class Projection(nn.ConvTranspose2d):
    """[B, C, 4, 4] of latents [B, Z]: the linear map that a transposed convolution of a single place is."""

    def forward(self, z: Tensor) -> Tensor:
        x = z @ _flat(self.weight, self.weight)
        if _channels_last(self.weight):
            return x.unflatten(1, (dcgan.GRID, dcgan.GRID, -1)).permute(0, 3, 1, 2)
        return x.unflatten(1, (-1, dcgan.GRID, dcgan.GRID))


class Head(nn.Conv2d):
    """Logits [B] of [B, C, 4, 4]: the scalar products that a convolution to a single place is."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(_flat(x, self.weight), _flat(self.weight, self.weight))[:, 0]


def generator(z_dim: int, width: int, layers: int) -> nn.Sequential:
    """[B, 3, S, S] of latents [B, Z], before the tanh."""
    channels = [width * 2**i for i in reversed(range(layers))]
    out = nn.Sequential(Projection(z_dim, channels[0], dcgan.GRID, bias=False))
    for inputs, outputs in zip(channels, [*channels[1:], 3]):
        out.extend([nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)])
        out.append(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False))
    return out


def discriminator(width: int, layers: int) -> nn.Sequential:
    """Logits [B] of pictures [B, 3, S, S]."""
    channels = [width * 2**i for i in range(layers)]
    out = nn.Sequential(nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(dcgan.LEAK, inplace=True))
    for inputs, outputs in zip(channels, channels[1:]):
        out.extend([nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs)])
        out.append(nn.LeakyReLU(dcgan.LEAK, inplace=True))
    return out.append(Head(channels[-1], 1, dcgan.GRID, bias=False))


def make(config: Any) -> tuple[DCGAN, list[table.Row]]:
    """The players of an experiment, and the table of their names."""
    layers = int(math.log2(config.data.size_px // dcgan.GRID))
    model = DCGAN(config.model.width, layers, config.objective)
    made = gan.dcgan_generator(layers)
    rows = _named("generator", made) + _named("discriminator", gan.dcgan_discriminator(layers))
    if model.ema is not None:
        averaged = [row._replace(ours=tuple(f"ema/{name}" for name in row.ours)) for row in made]
        rows += _named("ema", averaged)
    return model, rows


def _named(prefix: str, rows: list[table.Row]) -> list[table.Row]:
    return [row._replace(theirs=tuple(f"{prefix}.{name}" for name in row.theirs)) for row in rows]


def _flat(x: Tensor, kernel: Tensor) -> Tensor:
    """[N, H*W*C] or [N, C*H*W] of [N, C, H, W], whichever is the order in which the kernel lies."""
    return (x.permute(0, 2, 3, 1) if _channels_last(kernel) else x).flatten(1)


def _channels_last(kernel: Tensor) -> bool:
    return kernel.is_contiguous(memory_format=torch.channels_last)


def _floats(module: nn.Module) -> list[Tensor]:
    """All weights and batch statistics, without the counts of batches."""
    return [x for x in (*module.parameters(), *module.buffers()) if x.is_floating_point()]
