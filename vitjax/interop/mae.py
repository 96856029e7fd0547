"""Masked autoencoders of Hugging Face (names of transformers 4 and 5) and of the original code.

Published Hugging Face files hold the names of transformers 4, whichever version wrote them; a model in memory
has those of the version that runs.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vitjax import trees
from vitjax.errors import UserError
from vitjax.interop import table, timm_vit
from vitjax.interop.table import Row

BACKBONE, DECODER = "params/backbone", "params/decoder"


class Names(NamedTuple):
    """What Hugging Face calls the parts of a block, and where its encoder's blocks are."""

    encoder: str
    qkv: Sequence[str]
    proj: str
    fc1: str
    fc2: str

    def block(self, ours: str, theirs: str) -> list[Row]:
        """One transformer block, whose q, k and v are apart at Hugging Face and one matrix here."""
        return [
            *table.norm(f"{ours}/norm1", f"{theirs}.layernorm_before"),
            *table.joined_linear(f"{ours}/attention/qkv", [f"{theirs}.{x}" for x in self.qkv]),
            *table.linear(f"{ours}/attention/out", f"{theirs}.{self.proj}"),
            *table.norm(f"{ours}/norm2", f"{theirs}.layernorm_after"),
            *table.linear(f"{ours}/mlp/fc1", f"{theirs}.{self.fc1}"),
            *table.linear(f"{ours}/mlp/fc2", f"{theirs}.{self.fc2}"),
        ]


NAMES = {
    "hf4": Names(
        encoder="vit.encoder.layer",
        qkv=[f"attention.attention.{x}" for x in ("query", "key", "value")],
        proj="attention.output.dense",
        fc1="intermediate.dense",
        fc2="output.dense",
    ),
    "hf5": Names(
        encoder="vit.layers",
        qkv=[f"attention.{x}_proj" for x in "qkv"],
        proj="attention.o_proj",
        fc1="mlp.fc1",
        fc2="mlp.fc2",
    ),
}
LAYOUTS = (*NAMES, "facebook")


def read(weights: Mapping[str, np.ndarray], model: Any) -> dict[str, np.ndarray]:
    """Our flat variables from the weights of a MAE on square pictures, in whichever of the three layouts.

    Args:
      weights: flat, by their names.
      model: a `vitjax.models.mae.MAE`.

    Raises:
      UserError: the layout is none of the three, or names are missing or unexpected.
    """
    # transformers 5 writes the decoder's blocks under a name of its own into files.
    named = {re.sub(r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers.", k): k for k in weights}
    marks = {layout: _qkv_bias(layout) for layout in LAYOUTS}
    layout = next((x for x, mark in marks.items() if mark in named), None)
    if layout is None:
        raise UserError(f"no masked autoencoder: none of {', '.join(marks.values())} is among these weights")
    position = "pos_embed" if layout == "facebook" else "vit.embeddings.position_embeddings"
    side = math.isqrt(weights[position].shape[1] - 1) if position in weights else 1
    return table.read({name: weights[k] for name, k in named.items()}, rows(model, (side, side), layout))


def rows(model: Any, grid: tuple[int, int], layout: str) -> list[Row]:
    """The table of a MAE, for `table.write`.

    Args:
      model: a `vitjax.models.mae.MAE`.
      grid: rows and columns of patches.
      layout: 'hf4' (what published files hold), 'hf5' (a transformers 5 model in memory) or 'facebook'.
    """
    if layout == "facebook":
        encoder = timm_vit.rows(model.backbone, grid, head=False)
        return encoder + _decoder(model, grid, "", "decoder_blocks", timm_vit.block)
    names = NAMES[layout]
    encoder = _embeddings(model.backbone, grid)
    for i in range(model.backbone.depth):
        encoder += names.block(f"{BACKBONE}/{trees.block_name(i)}", f"{names.encoder}.{i}")
    encoder += table.norm(f"{BACKBONE}/norm", "vit.layernorm")
    return encoder + _decoder(model, grid, "decoder.", "decoder.decoder_layers", names.block)


def _embeddings(model: Any, grid: tuple[int, int]) -> list[Row]:
    theirs = "vit.embeddings"
    projection = f"{theirs}.patch_embeddings.projection"
    out = [
        timm_vit.position(
            model.posemb, model.class_token, grid, model.width, BACKBONE, f"{theirs}.position_embeddings"
        ),
        timm_vit.patch(f"{BACKBONE}/patch/kernel", f"{projection}.weight", model.patch_px),
        table.bias(f"{BACKBONE}/patch", projection),
    ]
    return out + ([table.same(f"{BACKBONE}/cls", f"{theirs}.cls_token")] if model.class_token else [])


def _decoder(
    model: Any, grid: tuple[int, int], prefix: str, blocks: str, block: Callable[[str, str], list[Row]]
) -> list[Row]:
    """The decoder: its ends have the same names in every layout, but for `prefix`."""
    out = [
        table.same(f"{DECODER}/mask_token", f"{prefix}mask_token"),
        timm_vit.position(
            model.decoder_posemb,
            model.backbone.class_token,
            grid,
            model.decoder_width,
            DECODER,
            f"{prefix}decoder_pos_embed",
        ),
        *table.linear(f"{DECODER}/embed", f"{prefix}decoder_embed"),
    ]
    for i in range(model.decoder_depth):
        out += block(f"{DECODER}/{trees.block_name(i)}", f"{blocks}.{i}")
    out += table.norm(f"{DECODER}/norm", f"{prefix}decoder_norm")
    return out + table.linear(f"{DECODER}/pred", f"{prefix}decoder_pred")


def _qkv_bias(layout: str) -> str:
    """A name that only this layout has."""
    if layout == "facebook":
        return "blocks.0.attn.qkv.bias"
    names = NAMES[layout]
    return f"{names.encoder}.0.{names.qkv[0]}.bias"
