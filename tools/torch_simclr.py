"""SimCLR in plain PyTorch, for `bench_step.py --against=torch`: any encoder, a projector, and NT-Xent.

It is the step that lightly's NTXentLoss and projection head make. Both views go through the network together, in
one batch of twice the size, which is the faster way and gives batch norm the statistics that vitjax has.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitjax.errors import UserError
from vitjax.interop import table

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


class SimCLR(nn.Module):
    """NT-Xent of pictures [B, 3, H, W] and their mirror images."""

    def __init__(self, encoder: nn.Module, width: int, objective: Any):
        """
        Args:
          encoder: gives float32 [B, width] by `features`.
          objective: `config.objective` of SimCLR.
        """
        super().__init__()
        self.encoder, self.projector = encoder, projector(objective.projector, width)
        self._temperature = objective.temperature

    def forward(self, images: Tensor) -> Tensor:
        # cat keeps the layout of its parts, and so does flip.
        z = self.projector(self.encoder.features(torch.cat([images, images.flip(3)])))
        with torch.autocast(z.device.type, enabled=False):
            return nt_xent(z.float(), self._temperature)


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """The cross-entropy of each row's other view among all rows of [2B, E] but itself; the mean over 2B."""
    z = F.normalize(z, dim=1)
    logits = z @ z.T / temperature
    logits.fill_diagonal_(-torch.inf)
    other = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return F.cross_entropy(logits, other)


def projector(settings: Any, width: int) -> nn.Sequential:
    """The head that `config.mlp_head` describes, on features of this width.

    Raises:
      UserError: a norm of its output that PyTorch's batch norm is not.
    """
    if settings.out_norm not in ("none", "affine"):
        raise UserError(
            f"config.objective.projector.out_norm={settings.out_norm!r} is not written in PyTorch here; compare with "
            "--config.objective.projector.out_norm=affine"
        )
    head, count = nn.Sequential(), len(settings.widths)
    for i, out in enumerate(settings.widths, start=1):
        last = i == count
        head.add_module(f"fc{i}", nn.Linear(width, out, settings.out_bias if last else settings.hidden_bias))
        if _normed(settings, last):
            head.add_module(f"norm{i}", nn.BatchNorm1d(out))
        if not last:
            head.add_module(f"activation{i}", ACTIVATIONS[settings.activation]())
        width = out
    return head


def rows(encoder: list[table.Row], settings: Any) -> list[table.Row]:
    """The table of SimCLR's names, from that of the encoder alone."""
    out = [row._replace(theirs=tuple(f"encoder.{name}" for name in row.theirs)) for row in encoder]
    count = len(settings.widths)
    for i in range(1, count + 1):
        ours, theirs = f"projector/fc{i}", f"projector.fc{i}"
        kernel, bias = table.linear(f"params/{ours}", theirs)
        out += [kernel, bias] if (settings.out_bias if i == count else settings.hidden_bias) else [kernel]
        if _normed(settings, i == count):
            out += table.batch_norm(f"projector/norm{i}", f"projector.norm{i}")
    return out


def _normed(settings: Any, last: bool) -> bool:
    return settings.out_norm != "none" if last else settings.hidden_norm
