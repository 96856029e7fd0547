"""How the same step can be computed in PyTorch, and which ways are worth trying."""

from typing import Any, NamedTuple

import torch
import torch_clip
from torch.nn.attention import SDPBackend

KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "math": SDPBackend.MATH}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
VALUES = {
    "attention": tuple(KERNELS),
    "memory": tuple(FORMATS),
    "optimiser": ("foreach", "fused"),
    "block": torch_clip.BLOCKS,
}
# The fields that make a difference to a model, beside the optimiser.
USES = {
    "resnet": ("memory",),
    "dcgan": ("memory",),
    "vit": ("attention",),
    "clip_vit": ("block", "attention", "memory"),
}
# Short sequences may be faster without the flash kernel; on GPUs torch chooses well, and fused is the fastest.
CPU_CHOICES = ("attention", "optimiser")
WORDS = {"attention": "scaled_dot_product_attention ({})", "memory": "{}", "block": "{} blocks of open_clip"}


class Form(NamedTuple):
    """A way to compute the step.

    Attributes:
      attention: the kernel of scaled_dot_product_attention: 'flash', 'math', or 'auto' for torch's choice.
      memory: the layout of pictures and convolutions: 'contiguous' or 'channels_last'.
      optimiser: 'fused' or 'foreach'.
      block: what open_clip builds: 'default' has torch's nn.MultiheadAttention, 'custom' an attention of its own.
    """

    attention: str = "auto"
    memory: str = "contiguous"
    optimiser: str = "fused"
    block: str = "default"


def choices(config: Any, cpu: bool) -> list[list[dict[str, str]]]:
    """What is worth trying, one choice after the other: the values of a field of Form."""
    fields = (*USES[config.model.name], "optimiser")
    return [[{field: value} for value in VALUES[field]] for field in fields if cpu or field not in CPU_CHOICES]


def describe(config: Any, form: Form) -> str:
    """The form in words, without what this model has no use for."""
    parts = [WORDS[field].format(getattr(form, field)) for field in USES[config.model.name]]
    return ", ".join([*parts, f"{form.optimiser} {config.optim.name}"])
