"""timm's vision transformers, whose names DeiT and the original MAE share."""

from typing import Any

import numpy as np

from vitjax import trees
from vitjax.interop import table
from vitjax.interop.table import Row
from vitjax.models import positions


def rows(
    model: Any, grid: tuple[int, int], head: bool = True, backbone: str = "params/backbone"
) -> list[Row]:
    """The table of timm's VisionTransformer.

    Args:
      model: `config.model` of a ViT, or the module; its depth, width, patch_px, class_token, pool and posemb
        count. 'gap_norm' is timm's global_pool='avg', and 'gap' its form with fc_norm=False.
      grid: rows and columns of patches.
      head: whether there is a classifier, ours at 'params/head'.
      backbone: our path of the backbone.
    """
    out = embedding(model, grid, backbone)
    for i in range(model.depth):
        out += block(f"{backbone}/{trees.block_name(i)}", f"blocks.{i}")
    out += _pool(model.pool, backbone)
    return out + (table.linear("params/head", "head") if head else [])


def embedding(model: Any, grid: tuple[int, int], backbone: str) -> list[Row]:
    """Patches, positions and class token."""
    out = [patch(f"{backbone}/patch/kernel", "patch_embed.proj.weight", model.patch_px)]
    out.append(table.bias(f"{backbone}/patch", "patch_embed.proj"))
    if model.class_token:
        out.append(table.same(f"{backbone}/cls", "cls_token"))
    out.append(position(model.posemb, model.class_token, grid, model.width, backbone, "pos_embed"))
    return out


def block(ours: str, theirs: str) -> list[Row]:
    """One transformer block."""
    out: list[Row] = []
    for name in ("norm1", "norm2"):
        out += table.norm(f"{ours}/{name}", f"{theirs}.{name}")
    out += table.linear(f"{ours}/attention/qkv", f"{theirs}.attn.qkv")
    out += table.linear(f"{ours}/attention/out", f"{theirs}.attn.proj")
    return out + mlp(f"{ours}/mlp", f"{theirs}.mlp")


def mlp(ours: str, theirs: str) -> list[Row]:
    """The two linear maps of a block."""
    return table.linear(f"{ours}/fc1", f"{theirs}.fc1") + table.linear(f"{ours}/fc2", f"{theirs}.fc2")


def patch(ours: str, theirs: str, patch_px: int) -> Row:
    """The convolution [D, C, P, P] as our matrix [P*P*C, D], pixels in the order (row, column, channel)."""
    return table.one(
        ours,
        theirs,
        lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
        lambda x: x.reshape(patch_px, patch_px, -1, x.shape[1]).transpose(3, 2, 0, 1),
    )


def position(
    posemb: str, class_token: bool, grid: tuple[int, int], width: int, ours: str, theirs: str
) -> Row:
    """Learned positions, the class token's kept apart by us, or fixed ones, which we do not store."""
    if posemb in positions.FIXED:
        fixed = np.concatenate(
            [np.zeros((int(class_token), width), np.float32), positions.fixed(posemb, *grid, width)]
        )
        return table.constant(theirs, fixed[None], "choose config.model.posemb='learned' for these weights")
    if class_token:
        return table.split_first((f"{ours}/cls_position", f"{ours}/position"), theirs, axis=1)
    return table.same(f"{ours}/position", theirs)


def _pool(pool: str, backbone: str) -> list[Row]:
    if pool == "gap_norm":
        return table.norm(f"{backbone}/fc_norm", "fc_norm")
    out = table.norm(f"{backbone}/norm", "norm")
    if pool == "map":
        ours = f"{backbone}/map_head"
        out.append(table.same(f"{ours}/probe", "attn_pool.latent"))
        out += table.norm(f"{ours}/norm", "attn_pool.norm")
        for name, theirs in (("q", "q"), ("kv", "kv"), ("out", "proj")):
            out += table.linear(f"{ours}/{name}", f"attn_pool.{theirs}")
        out += mlp(f"{ours}/mlp", "attn_pool.mlp")
    return out
