"""The weights of CLIP and SigLIP in every layout that is known, read without being told which it is."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vitjax.errors import UserError
from vitjax.interop import clip, siglip, table
from vitjax.interop.table import Row

# Layout -> its table, and a name that only it has.
LAYOUTS: dict[str, tuple[Callable[[Any], list[Row]], tuple[str, ...]]] = {
    "openai": (clip.openai, ("visual.class_embedding", "visual.attnpool.positional_embedding")),
    "hf_clip": (clip.huggingface, ("vision_model.embeddings.class_embedding",)),
    "open_clip_siglip": (siglip.open_clip, ("visual.trunk.attn_pool.latent",)),
    "hf_siglip": (siglip.huggingface, ("vision_model.head.probe",)),
}
# Constants that some files hold beside the weights.
CONSTANTS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "position_ids")


def read(weights: Mapping[str, np.ndarray], model: Any) -> dict[str, np.ndarray]:
    """Our flat variables from the weights of a CLIP or SigLIP, in whichever of the `LAYOUTS`.

    Types stay what they are: OpenAI's files are in float16.

    Args:
      weights: flat, by their names.
      model: a `vitjax.models.two_towers.TwoTowers` of the same sizes.

    Raises:
      UserError: the layout is none of them, or names are missing or unexpected.
    """
    weights = {name: x for name, x in weights.items() if name.rpartition(".")[2] not in CONSTANTS}
    return table.read(weights, rows(model, layout(weights)))


def layout(names: Any) -> str:
    """Which of `LAYOUTS` has these names.

    Raises:
      UserError: none has.
    """
    for known, (_, marks) in LAYOUTS.items():
        if any(mark in names for mark in marks):
            return known
    marks = ", ".join(mark for _, marks in LAYOUTS.values() for mark in marks)
    raise UserError(f"neither CLIP nor SigLIP: none of {marks} is among these weights")


def rows(model: Any, layout: str) -> list[Row]:
    """The table of a layout, for `table.write`.

    Args:
      model: a `vitjax.models.two_towers.TwoTowers`.
      layout: one of `LAYOUTS`.
    """
    return LAYOUTS[layout][0](model)
