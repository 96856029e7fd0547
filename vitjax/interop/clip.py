"""CLIP's weights as OpenAI and open_clip name them ('openai'), and as Hugging Face does ('huggingface').

Both sides' towers are `models.two_towers.TwoTowers`; the ResNets exist in OpenAI's layout only.
"""

from typing import Any

import numpy as np

from vitjax import trees
from vitjax.interop import table, timm_vit
from vitjax.interop.table import Row
from vitjax.models.clip_resnet import ClipResNet

IMAGE, TEXT = "params/backbone", "params/text"
IMAGE_PROJECTION, TEXT_PROJECTION = "params/image_projection", "params/text_projection"


def openai(model: Any) -> list[Row]:
    """The table of OpenAI's and open_clip's CLIP.

    Args:
      model: a `vitjax.models.two_towers.TwoTowers`.
    """
    resnet = isinstance(model.backbone, ClipResNet)
    image = _openai_resnet(model.backbone.blocks) if resnet else _openai_vit(model.backbone)
    out = [*image, *openai_text(model.text), table.same("params/logit_scale", "logit_scale")]
    out.append(table.same(f"{TEXT_PROJECTION}/kernel", "text_projection"))
    return out


def openai_text(text: Any, prefix: str = "") -> list[Row]:
    """The text tower without its projection."""
    out = [
        table.same(f"{TEXT}/embedding", f"{prefix}token_embedding.weight"),
        without_batch(f"{TEXT}/position", f"{prefix}positional_embedding"),
    ]
    out += _openai_blocks(TEXT, f"{prefix}transformer.resblocks", text.depth)
    return out + table.norm(f"{TEXT}/norm", f"{prefix}ln_final")


def huggingface(model: Any) -> list[Row]:
    """The table of Hugging Face's CLIPModel, of vision transformers alone.

    Args:
      model: a `vitjax.models.two_towers.TwoTowers`.
    """
    theirs = "vision_model.embeddings"
    out = _class_and_positions(f"{theirs}.class_embedding", f"{theirs}.position_embedding.weight")
    out.append(
        timm_vit.patch(f"{IMAGE}/patch/kernel", f"{theirs}.patch_embedding.weight", model.backbone.patch_px)
    )
    out += table.norm(f"{IMAGE}/norm_pre", "vision_model.pre_layrnorm")  # so it is spelt there
    out += huggingface_blocks(IMAGE, "vision_model.encoder.layers", model.backbone.depth)
    out += table.norm(f"{IMAGE}/norm", "vision_model.post_layernorm")
    out += huggingface_text(model.text)
    for ours, name in ((IMAGE_PROJECTION, "visual_projection"), (TEXT_PROJECTION, "text_projection")):
        out.append(table.one(f"{ours}/kernel", f"{name}.weight", np.transpose, np.transpose))
    return [*out, table.same("params/logit_scale", "logit_scale")]


def huggingface_text(text: Any) -> list[Row]:
    """The text tower without its projection, the same for CLIP and SigLIP."""
    theirs = "text_model.embeddings"
    out = [
        table.same(f"{TEXT}/embedding", f"{theirs}.token_embedding.weight"),
        without_batch(f"{TEXT}/position", f"{theirs}.position_embedding.weight"),
    ]
    out += huggingface_blocks(TEXT, "text_model.encoder.layers", text.depth)
    return out + table.norm(f"{TEXT}/norm", "text_model.final_layer_norm")


def huggingface_blocks(ours: str, theirs: str, depth: int) -> list[Row]:
    """The blocks of a tower, whose q, k and v are apart there and one matrix here."""
    out: list[Row] = []
    for i in range(depth):
        here, there = f"{ours}/{trees.block_name(i)}", f"{theirs}.{i}"
        out += table.norm(f"{here}/norm1", f"{there}.layer_norm1")
        out += table.joined_linear(f"{here}/attention/qkv", [f"{there}.self_attn.{x}_proj" for x in "qkv"])
        out += table.linear(f"{here}/attention/out", f"{there}.self_attn.out_proj")
        out += table.norm(f"{here}/norm2", f"{there}.layer_norm2")
        out += timm_vit.mlp(f"{here}/mlp", f"{there}.mlp")
    return out


def without_batch(ours: str, theirs: str) -> Row:
    """An array that has a first axis of one here and not there."""
    return table.one(ours, theirs, lambda x: x[None], lambda x: x[0])


def _class_and_positions(cls: str, position: str) -> list[Row]:
    """The class token [D] and the positions [1 + N, D], of which the class token's is the first."""
    return [
        table.one(f"{IMAGE}/cls", cls, lambda x: x[None, None], lambda x: x[0, 0]),
        Row(
            (f"{IMAGE}/cls_position", f"{IMAGE}/position"),
            (position,),
            lambda arrays: tuple(x[None] for x in np.split(arrays[0], [1])),
            lambda arrays: (np.concatenate([x[0] for x in arrays]),),
        ),
    ]


def _openai_vit(model: Any) -> list[Row]:
    out = _class_and_positions("visual.class_embedding", "visual.positional_embedding")
    out.append(timm_vit.patch(f"{IMAGE}/patch/kernel", "visual.conv1.weight", model.patch_px))
    out += table.norm(f"{IMAGE}/norm_pre", "visual.ln_pre")
    out += _openai_blocks(IMAGE, "visual.transformer.resblocks", model.depth)
    out += table.norm(f"{IMAGE}/norm", "visual.ln_post")
    # Matrices that are no layers are not transposed there.
    return [*out, table.same(f"{IMAGE_PROJECTION}/kernel", "visual.proj")]


def _openai_blocks(ours: str, theirs: str, depth: int) -> list[Row]:
    out: list[Row] = []
    for i in range(depth):
        here, there = f"{ours}/{trees.block_name(i)}", f"{theirs}.{i}"
        qkv = f"{here}/attention/qkv"
        out += table.norm(f"{here}/norm1", f"{there}.ln_1")
        out.append(table.one(f"{qkv}/kernel", f"{there}.attn.in_proj_weight", np.transpose, np.transpose))
        out.append(table.same(f"{qkv}/bias", f"{there}.attn.in_proj_bias"))
        out += table.linear(f"{here}/attention/out", f"{there}.attn.out_proj")
        out += table.norm(f"{here}/norm2", f"{there}.ln_2")
        out += table.linear(f"{here}/mlp/fc1", f"{there}.mlp.c_fc")
        out += table.linear(f"{here}/mlp/fc2", f"{there}.mlp.c_proj")
    return out


def _openai_resnet(blocks: tuple[int, ...]) -> list[Row]:
    out: list[Row] = []
    for i in (1, 2, 3):
        out += _conv_norm(f"stem_conv{i}", f"conv{i}", f"stem_norm{i}", f"bn{i}")
    for stage, depth in enumerate(blocks, start=1):
        for i in range(depth):
            ours, theirs = f"stage{stage}_{i}", f"layer{stage}.{i}"
            for c in (1, 2, 3):
                out += _conv_norm(f"{ours}/conv{c}", f"{theirs}.conv{c}", f"{ours}/norm{c}", f"{theirs}.bn{c}")
            if i == 0:
                there = f"{theirs}.downsample"
                out += _conv_norm(f"{ours}/shortcut_conv", f"{there}.0", f"{ours}/shortcut_norm", f"{there}.1")
    ours, theirs = f"{IMAGE}/pool", "visual.attnpool"
    out.append(without_batch(f"{ours}/position", f"{theirs}.positional_embedding"))
    out += table.linear(f"{ours}/q", f"{theirs}.q_proj")
    out += table.joined_linear(f"{ours}/kv", [f"{theirs}.k_proj", f"{theirs}.v_proj"])
    return out + table.linear(IMAGE_PROJECTION, f"{theirs}.c_proj")


def _conv_norm(our_conv: str, their_conv: str, our_norm: str, their_norm: str) -> list[Row]:
    stats, theirs = f"batch_stats/backbone/{our_norm}", f"visual.{their_norm}"
    return [
        table.conv(f"{IMAGE}/{our_conv}", f"visual.{their_conv}"),
        *table.norm(f"{IMAGE}/{our_norm}", theirs),
        table.same(f"{stats}/mean", f"{theirs}.running_mean"),
        table.same(f"{stats}/var", f"{theirs}.running_var"),
        table.dropped(f"{theirs}.num_batches_tracked", np.zeros((), np.int64)),
    ]
