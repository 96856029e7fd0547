"""Names and shapes of other libraries' tiny models, in the order of their state dicts (the hash needs it)."""

Shapes = dict[str, tuple[int, ...]]


def timm_vit(pool: str, width: int = 16, depth: int = 2, tokens: int = 16, patch_px: int = 4) -> Shapes:
    """timm's VisionTransformer with five classes; `pool` is ours; class token with 'cls' only."""
    cls = pool == "cls"
    out: Shapes = {"cls_token": (1, 1, width)} if cls else {}
    out["pos_embed"] = (1, tokens + cls, width)
    out |= {"patch_embed.proj.weight": (width, 3, patch_px, patch_px), "patch_embed.proj.bias": (width,)}
    for i in range(depth):
        out |= timm_block(f"blocks.{i}", width)
    out |= _norm("fc_norm" if pool == "gap_norm" else "norm", width)
    if pool == "map":
        out["attn_pool.latent"] = (1, 1, width)
        out |= _linear("attn_pool.q", width, width) | _linear("attn_pool.kv", width, 2 * width)
        out |= _linear("attn_pool.proj", width, width) | _norm("attn_pool.norm", width)
        out |= _linear("attn_pool.mlp.fc1", width, 4 * width) | _linear("attn_pool.mlp.fc2", 4 * width, width)
    return out | _linear("head", width, 5)


def timm_block(name: str, width: int, ratio: int = 4) -> Shapes:
    out = _norm(f"{name}.norm1", width) | _linear(f"{name}.attn.qkv", width, 3 * width)
    out |= _linear(f"{name}.attn.proj", width, width) | _norm(f"{name}.norm2", width)
    return (
        out
        | _linear(f"{name}.mlp.fc1", width, ratio * width)
        | _linear(f"{name}.mlp.fc2", ratio * width, width)
    )


def facebook_mae(
    width: int = 16, depth: int = 2, tokens: int = 16, patch_px: int = 4, ratio: int = 2
) -> Shapes:
    """The original code's MaskedAutoencoderViT with one decoder block as wide as the encoder."""
    out: Shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, tokens + 1, width),
        "mask_token": (1, 1, width),
    }
    out["decoder_pos_embed"] = (1, tokens + 1, width)
    out |= {"patch_embed.proj.weight": (width, 3, patch_px, patch_px), "patch_embed.proj.bias": (width,)}
    for i in range(depth):
        out |= timm_block(f"blocks.{i}", width, ratio)
    out |= _norm("norm", width) | _linear("decoder_embed", width, width)
    out |= timm_block("decoder_blocks.0", width, ratio) | _norm("decoder_norm", width)
    return out | _linear("decoder_pred", width, 3 * patch_px**2)


def hf_mae(width: int = 16, depth: int = 2, tokens: int = 16, patch_px: int = 4, ratio: int = 2) -> Shapes:
    """Hugging Face's ViTMAEForPreTraining with one decoder block, by the names of transformers 4."""
    out: Shapes = {
        "vit.embeddings.cls_token": (1, 1, width),
        "vit.embeddings.position_embeddings": (1, tokens + 1, width),
        "vit.embeddings.patch_embeddings.projection.weight": (width, 3, patch_px, patch_px),
        "vit.embeddings.patch_embeddings.projection.bias": (width,),
    }
    for i in range(depth):
        out |= _hf_block(f"vit.encoder.layer.{i}", width, ratio)
    out |= _norm("vit.layernorm", width)
    out |= {"decoder.mask_token": (1, 1, width), "decoder.decoder_pos_embed": (1, tokens + 1, width)}
    out |= _linear("decoder.decoder_embed", width, width)
    out |= _hf_block("decoder.decoder_layers.0", width, ratio) | _norm("decoder.decoder_norm", width)
    return out | _linear("decoder.decoder_pred", width, 3 * patch_px**2)


def hf5_name(name: str) -> str:
    """The name that transformers 5 has in memory for a name of transformers 4."""
    for old, new in (
        ("vit.encoder.layer.", "vit.layers."),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ):
        name = name.replace(old, new)
    return name


def torchvision_resnet(bottleneck: bool) -> Shapes:
    """torchvision's ResNet with one block in each stage and five classes."""
    out = _conv_norm("conv1", "bn1", 3, 64, 7)
    channels = 64
    for stage in range(1, 5):
        name, width = f"layer{stage}.0", 32 * 2**stage
        last = width * (4 if bottleneck else 1)
        convs = [(channels, width, 1), (width, width, 3), (width, last, 1)]
        for c, conv in enumerate(convs if bottleneck else [(channels, width, 3), (width, width, 3)], start=1):
            out |= _conv_norm(f"{name}.conv{c}", f"{name}.bn{c}", *conv)
        if channels != last:
            out |= _conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", channels, last, 1)
        channels = last
    return out | _linear("fc", channels, 5)


def vgg_bn() -> Shapes:
    """A VGG with batch norm and torchvision's names: three stages, one hidden linear layer and five classes."""
    out: Shapes = {}
    for at, inputs, outputs in ((0, 3, 8), (4, 8, 16), (7, 16, 16), (11, 16, 8)):
        conv = _conv_norm(f"features.{at}", f"features.{at + 1}", inputs, outputs, 3)
        name = f"features.{at}"
        out |= {f"{name}.weight": conv[f"{name}.weight"], f"{name}.bias": (outputs,)} | conv
    return out | _linear("classifier.0", 8 * 7 * 7, 10) | _linear("classifier.2", 10, 5)


def _hf_block(name: str, width: int, ratio: int) -> Shapes:
    out: Shapes = {}
    for part in ("query", "key", "value"):
        out |= _linear(f"{name}.attention.attention.{part}", width, width)
    out |= _linear(f"{name}.attention.output.dense", width, width)
    out |= _linear(f"{name}.intermediate.dense", width, ratio * width)
    out |= _linear(f"{name}.output.dense", ratio * width, width)
    return out | _norm(f"{name}.layernorm_before", width) | _norm(f"{name}.layernorm_after", width)


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _conv_norm(conv: str, norm: str, inputs: int, outputs: int, kernel: int) -> Shapes:
    out: Shapes = {f"{conv}.weight": (outputs, inputs, kernel, kernel)} | _norm(norm, outputs)
    out |= {f"{norm}.running_mean": (outputs,), f"{norm}.running_var": (outputs,)}
    return out | {f"{norm}.num_batches_tracked": ()}
