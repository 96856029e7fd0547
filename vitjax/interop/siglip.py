"""SigLIP's weights as Hugging Face names them ('huggingface'), and as open_clip does ('open_clip')."""

from typing import Any

import numpy as np

from vitjax.interop import clip, table, timm_vit
from vitjax.interop.clip import IMAGE, TEXT_PROJECTION
from vitjax.interop.table import Row


def huggingface(model: Any) -> list[Row]:
    """The table of Hugging Face's SiglipModel.

    Args:
      model: a `vitjax.models.two_towers.TwoTowers`.
    """
    theirs = "vision_model.embeddings"
    patch = f"{theirs}.patch_embedding"
    out = [
        timm_vit.patch(f"{IMAGE}/patch/kernel", f"{patch}.weight", model.backbone.patch_px),
        table.bias(f"{IMAGE}/patch", patch),
        clip.without_batch(f"{IMAGE}/position", f"{theirs}.position_embedding.weight"),
    ]
    out += clip.huggingface_blocks(IMAGE, "vision_model.encoder.layers", model.backbone.depth)
    out += table.norm(f"{IMAGE}/norm", "vision_model.post_layernorm")
    out += _huggingface_map_head(f"{IMAGE}/map_head", "vision_model.head")
    out += clip.huggingface_text(model.text)
    out += table.linear(TEXT_PROJECTION, "text_model.head")
    for name in ("logit_scale", "logit_bias"):
        out.append(table.one(f"params/{name}", name, lambda x: x[0], lambda x: x[None]))
    return out


def open_clip(model: Any) -> list[Row]:
    """The table of open_clip's SigLIP, whose image tower is timm's.

    Args:
      model: a `vitjax.models.two_towers.TwoTowers`.
    """
    image = timm_vit.rows(model.backbone, (1, 1), head=False, backbone=IMAGE)  # learned positions need no grid
    out = [row._replace(theirs=tuple(f"visual.trunk.{name}" for name in row.theirs)) for row in image]
    out += clip.openai_text(model.text, "text.")
    out += table.linear(TEXT_PROJECTION, "text.text_projection")
    return out + [table.same(f"params/{name}", name) for name in ("logit_scale", "logit_bias")]


def _huggingface_map_head(ours: str, theirs: str) -> list[Row]:
    """torch keeps the head's q, k and v in one matrix; here q, which sees the probe alone, is apart."""

    def joined(part: str, name: str, turn: Any) -> Row:
        def read(arrays: tuple) -> tuple:
            width = len(arrays[0]) // 3
            return tuple(turn(x) for x in np.split(arrays[0], [width]))

        return Row(
            (f"{ours}/q/{part}", f"{ours}/kv/{part}"),
            (f"{theirs}.attention.{name}",),
            read,
            lambda arrays: (np.concatenate([turn(x) for x in arrays]),),
        )

    out = [
        table.same(f"{ours}/probe", f"{theirs}.probe"),
        joined("kernel", "in_proj_weight", np.transpose),
        joined("bias", "in_proj_bias", lambda x: x),
    ]
    out += table.linear(f"{ours}/out", f"{theirs}.attention.out_proj")
    out += table.norm(f"{ours}/norm", f"{theirs}.layernorm")
    return out + timm_vit.mlp(f"{ours}/mlp", f"{theirs}.mlp")
