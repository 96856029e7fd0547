"""Published pairs of towers by their names, as settings for a config's sections.

    c.model.update(PUBLISHED["ViT-B/32"]["model"])

What changes speed and memory but no number (scan, remat, attention) is not here. OpenAI's models have
QuickGELU; `open_clip` trained some of the same names with the exact GELU: set activation='gelu' in both towers then.

Source: Radford et al., 2021, CLIP, tables 19 and 20; Zhai et al., 2023, SigLIP; the configurations of open_clip and
Hugging Face.
"""

from typing import Any

# How their pictures are fed: with the short side as the network's and the middle cut out, or with both sides so.
CLIP_PIXELS = dict(
    mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711), resize="bicubic",
    eval_crop_fraction=1.0, eval_aspect="keep",
)  # fmt: skip
SIGLIP_PIXELS = dict(
    mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize="bicubic", eval_crop_fraction=1.0, eval_aspect="squash"
)

Settings = dict[str, dict[str, Any]]


def _clip_text(width: int) -> dict[str, Any]:
    return dict(
        width=width, depth=12, heads=width // 64, mlp_dim=4 * width, vocab_size=49_408, causal=True, pool="argmax",
        eos_id=49_407, norm_eps=1e-5, activation="quick_gelu", inits="clip",
    )  # fmt: skip


def _clip(size_px: int, model: dict[str, Any], text_width: int, embed_dim: int, projection: str) -> Settings:
    towers = dict(image_projection=projection, text_projection="linear", scale=1 / 0.07, bias=None)
    return dict(
        data=dict(size_px=size_px, text_length=77, **CLIP_PIXELS),
        model=model,
        text=_clip_text(text_width),
        towers=dict(embed_dim=embed_dim, **towers),
    )


def _clip_vit(size_px: int, patch_px: int, width: int, depth: int, text_width: int, embed_dim: int) -> Settings:
    model = dict(
        name="clip_vit", width=width, depth=depth, heads=width // 64, mlp_dim=4 * width, patch_px=patch_px,
        class_token=True, pool="cls", posemb="learned", norm_eps=1e-5, activation="quick_gelu", drop_path=0.0,
    )  # fmt: skip
    return _clip(size_px, model, text_width, embed_dim, "linear")


def _clip_resnet(
    size_px: int, blocks: tuple[int, ...], width: int, text_width: int, embed_dim: int
) -> Settings:
    model = dict(name="clip_resnet", blocks=blocks, width=width, heads=width // 2, zero_init_residual=True)
    return _clip(size_px, model, text_width, embed_dim, "biased")


def _siglip(
    size_px: int, patch_px: int, width: int, depth: int, heads: int, mlp_dim: int, text_length: int = 64
) -> Settings:
    """Both towers have one width; the text's depth is the picture's."""
    size = dict(width=width, depth=depth, heads=heads, mlp_dim=mlp_dim)
    numbers = dict(norm_eps=1e-6, activation="gelu_tanh")
    image = dict(name="vit", class_token=False, pool="map", posemb="learned", drop_path=0.0)
    text = dict(vocab_size=32_000, causal=False, pool="last", eos_id=1, inits="xavier")
    towers = dict(image_projection="none", text_projection="biased", scale=10.0, bias=-10.0)
    return dict(
        data=dict(size_px=size_px, text_length=text_length, text_clean="canonical", text_pad=1, **SIGLIP_PIXELS),
        model=image | size | numbers | dict(patch_px=patch_px),
        text=text | size | numbers,
        towers=dict(embed_dim=width, **towers),
    )


PUBLISHED: dict[str, Settings] = {
    "ViT-B/32": _clip_vit(224, 32, 768, 12, 512, 512),
    "ViT-B/16": _clip_vit(224, 16, 768, 12, 512, 512),
    "ViT-L/14": _clip_vit(224, 14, 1024, 24, 768, 768),
    "ViT-L/14@336": _clip_vit(336, 14, 1024, 24, 768, 768),
    "RN50": _clip_resnet(224, (3, 4, 6, 3), 64, 512, 1024),
    "RN101": _clip_resnet(224, (3, 4, 23, 3), 64, 512, 512),
    "RN50x4": _clip_resnet(288, (4, 6, 10, 6), 80, 640, 640),
    "RN50x16": _clip_resnet(384, (6, 8, 18, 8), 96, 768, 768),
    "RN50x64": _clip_resnet(448, (3, 15, 36, 10), 128, 1024, 1024),
    "SigLIP-B/16": _siglip(224, 16, 768, 12, 12, 3072),
    "SigLIP-B/16@256": _siglip(256, 16, 768, 12, 12, 3072),
    "SigLIP-B/16@384": _siglip(384, 16, 768, 12, 12, 3072),
    "SigLIP-B/16@512": _siglip(512, 16, 768, 12, 12, 3072),
    "SigLIP-L/16@256": _siglip(256, 16, 1024, 24, 16, 4096),
    "SigLIP-L/16@384": _siglip(384, 16, 1024, 24, 16, 4096),
    "SigLIP-So400m/14": _siglip(224, 14, 1152, 27, 16, 4304, text_length=16),
    # Published as of 384 px, of which patches of 14 px cover 378.
    "SigLIP-So400m/14@378": _siglip(378, 14, 1152, 27, 16, 4304),
}
