"""CLIP by open_clip, for `bench_step.py --against=torch`: its own model and loss, as the config describes them.

Its training loop bounds the scale after the step and decays no vector, and so does the step that is timed.
"""

import importlib
import math
from types import ModuleType
from typing import Any

import foreign_torchvision
import torch
from torch import nn

from vitjax import image_text
from vitjax.errors import UserError
from vitjax.experiment import Experiment
from vitjax.interop import table, two_towers

BLOCKS = ("default", "custom")
# Settings whose other values open_clip's CLIP has not, or has under names that the table lacks.
ONLY = {
    "model.class_token": True,
    "model.pool": "cls",
    "model.posemb": "learned",
    "text.remat": False,
    "towers.image_projection": "linear",
    "towers.text_projection": "linear",
    "towers.bias": None,
    "objective.multi_positive": False,
    "optim.no_decay": ("backbone/cls$",),  # a vector there, and vectors are not decayed
}


def check(config: Any) -> None:
    """Nothing, if the towers can be open_clip's; `ONLY` says more.

    Raises:
      UserError: they cannot.
    """
    if config.model.name != "clip_vit":
        raise UserError(
            f"config.model.name={config.model.name!r} of clip is not written in PyTorch here; choose 'clip_vit'"
        )
    quick = config.model.activation == "quick_gelu"
    if quick != (config.text.activation == "quick_gelu"):
        raise UserError(
            f"config.text.activation={config.text.activation!r}: open_clip has 'quick_gelu' in both towers or in none; "
            f"compare with --config.text.activation={config.model.activation}"
        )


def make(built: Experiment, block: str) -> tuple[nn.Module, list[table.Row]]:
    """open_clip's CLIP of an experiment, and the table of its names.

    Args:
      block: one of `BLOCKS`, which have the same weights.

    Raises:
      UserError: open_clip is not there.
    """
    config, towers = built.config, image_text.towers(built.config, built.run)
    model = _open_clip("model").CLIP(
        embed_dim=towers.embed_dim,
        quick_gelu=config.model.activation == "quick_gelu",
        vision_cfg=_image_tower(config, block),
        text_cfg=_text_tower(config, towers.text.vocab_size, block),
    )
    return model, two_towers.rows(towers, "openai")


def loss() -> nn.Module:
    """open_clip's loss of what its model returns."""
    return _open_clip("loss").ClipLoss(cache_labels=True)


@torch.no_grad()
def bound_scale(model: nn.Module, max_scale: float) -> None:
    """Brings the factor of the cosines back to `max_scale`, after a step; 0 is no bound."""
    if max_scale:
        model.logit_scale.clamp_(max=math.log(max_scale))


def _image_tower(config: Any, block: str) -> dict[str, Any]:
    c = config.model
    shape = dict(image_size=config.data.size_px, patch_size=c.patch_px, head_width=c.width // c.heads)
    return _tower(c, block) | shape


def _text_tower(config: Any, vocab_size: int, block: str) -> dict[str, Any]:
    c = config.text
    pool = dict(no_causal_mask=not c.causal, pool_type=c.pool, eos_id=c.eos_id)
    shape = dict(context_length=config.data.text_length, vocab_size=vocab_size, heads=c.heads)
    return _tower(c, block) | shape | pool


def _tower(c: Any, block: str) -> dict[str, Any]:
    """What both towers have."""
    return dict(
        width=c.width,
        layers=c.depth,
        mlp_ratio=c.mlp_dim / c.width,
        act_kwargs=dict(approximate="tanh") if c.activation == "gelu_tanh" else None,
        norm_kwargs=dict(eps=c.norm_eps),
        block_type=block,
    )


def _open_clip(module: str) -> ModuleType:
    """A module of open_clip, which is no part of the other comparisons."""
    foreign_torchvision.declare_operators()
    try:
        return importlib.import_module(f"open_clip.{module}")
    except ModuleNotFoundError as error:
        raise UserError("--against=torch of clip needs open_clip: pip install open_clip_torch") from error
