"""Names and shapes of tiny CLIPs and SigLIPs of other libraries, in the order of their state dicts.

Both towers are 16 wide and 2 blocks deep with an MLP of 32; pictures have 16 patches of 4 px, texts 8 tokens of 64.
"""

WIDTH, DEPTH, MLP_DIM, VOCAB, LENGTH, PATCHES, PATCH_PX, EMBED_DIM = 16, 2, 32, 64, 8, 16, 4, 12

Shapes = dict[str, tuple[int, ...]]


def hf_clip() -> Shapes:
    """Hugging Face's CLIPModel."""
    out = {"logit_scale": ()} | _hf_text("clip")
    image = "vision_model"
    out[f"{image}.embeddings.class_embedding"] = (WIDTH,)
    out[f"{image}.embeddings.patch_embedding.weight"] = (WIDTH, 3, PATCH_PX, PATCH_PX)
    out[f"{image}.embeddings.position_embedding.weight"] = (PATCHES + 1, WIDTH)
    out |= _norm(f"{image}.pre_layrnorm") | _hf_blocks(f"{image}.encoder.layers", "clip")
    out |= _norm(f"{image}.post_layernorm")
    return out | {f"{x}_projection.weight": (EMBED_DIM, WIDTH) for x in ("visual", "text")}


def hf_siglip() -> Shapes:
    """Hugging Face's SiglipModel."""
    out = {"logit_scale": (1,), "logit_bias": (1,)} | _hf_text("siglip")
    out |= _linear("text_model.head", WIDTH, WIDTH)
    image, head = "vision_model", "vision_model.head"
    out[f"{image}.embeddings.patch_embedding.weight"] = (WIDTH, 3, PATCH_PX, PATCH_PX)
    out[f"{image}.embeddings.patch_embedding.bias"] = (WIDTH,)
    out[f"{image}.embeddings.position_embedding.weight"] = (PATCHES, WIDTH)
    out |= _hf_blocks(f"{image}.encoder.layers", "siglip") | _norm(f"{image}.post_layernorm")
    out[f"{head}.probe"] = (1, 1, WIDTH)
    out |= _attention(f"{head}.attention") | _norm(f"{head}.layernorm")
    return out | _hf_mlp(f"{head}.mlp")


def openai_vit() -> Shapes:
    """OpenAI's CLIP, and open_clip's, with a vision transformer."""
    out: Shapes = {"positional_embedding": (LENGTH, WIDTH), "text_projection": (WIDTH, EMBED_DIM), "logit_scale": ()}
    out |= {"visual.class_embedding": (WIDTH,), "visual.positional_embedding": (PATCHES + 1, WIDTH)}
    out |= {"visual.proj": (WIDTH, EMBED_DIM), "visual.conv1.weight": (WIDTH, 3, PATCH_PX, PATCH_PX)}
    out |= _norm("visual.ln_pre") | _openai_blocks("visual.transformer.resblocks") | _norm("visual.ln_post")
    return out | _openai_text("")


def openai_resnet() -> Shapes:
    """OpenAI's CLIP, and open_clip's, with a ResNet of one block a stage, 4 wide, on pictures of 64 px."""
    out: Shapes = {"positional_embedding": (LENGTH, WIDTH), "text_projection": (WIDTH, EMBED_DIM), "logit_scale": ()}
    for i, (inputs, outputs) in enumerate([(3, 2), (2, 2), (2, 4)], start=1):
        out |= _conv_norm(f"visual.conv{i}", f"visual.bn{i}", inputs, outputs, 3)
    channels = 4
    for stage in range(1, 5):
        name, width = f"visual.layer{stage}.0", 2 * 2**stage
        for c, (i, o, k) in enumerate([(channels, width, 1), (width, width, 3), (width, 4 * width, 1)], start=1):
            out |= _conv_norm(f"{name}.conv{c}", f"{name}.bn{c}", i, o, k)
        out |= _conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", channels, 4 * width, 1)
        channels = 4 * width
    out["visual.attnpool.positional_embedding"] = (2 * 2 + 1, channels)
    for part in ("k_proj", "q_proj", "v_proj"):
        out |= _linear(f"visual.attnpool.{part}", channels, channels)
    return out | _linear("visual.attnpool.c_proj", channels, EMBED_DIM) | _openai_text("")


def open_clip_siglip() -> Shapes:
    """open_clip's SigLIP, whose image tower is timm's."""
    trunk = "visual.trunk"
    out: Shapes = {"logit_scale": (), "logit_bias": (), f"{trunk}.pos_embed": (1, PATCHES, WIDTH)}
    out |= {f"{trunk}.patch_embed.proj.weight": (WIDTH, 3, PATCH_PX, PATCH_PX)}
    out |= {f"{trunk}.patch_embed.proj.bias": (WIDTH,)}
    for i in range(DEPTH):
        name = f"{trunk}.blocks.{i}"
        out |= _norm(f"{name}.norm1") | _linear(f"{name}.attn.qkv", WIDTH, 3 * WIDTH)
        out |= _linear(f"{name}.attn.proj", WIDTH, WIDTH) | _norm(f"{name}.norm2") | _hf_mlp(f"{name}.mlp")
    head = f"{trunk}.attn_pool"
    out |= _norm(f"{trunk}.norm") | {f"{head}.latent": (1, 1, WIDTH)}
    out |= _linear(f"{head}.q", WIDTH, WIDTH) | _linear(f"{head}.kv", WIDTH, 2 * WIDTH)
    out |= _linear(f"{head}.proj", WIDTH, WIDTH) | _norm(f"{head}.norm") | _hf_mlp(f"{head}.mlp")
    out |= {"text.positional_embedding": (LENGTH, WIDTH)} | _openai_text("text.")
    return out | _linear("text.text_projection", WIDTH, WIDTH)


def _openai_text(prefix: str) -> Shapes:
    out = _openai_blocks(f"{prefix}transformer.resblocks")
    return out | {f"{prefix}token_embedding.weight": (VOCAB, WIDTH)} | _norm(f"{prefix}ln_final")


def _openai_blocks(name: str) -> Shapes:
    out: Shapes = {}
    for i in range(DEPTH):
        out |= _norm(f"{name}.{i}.ln_1") | _attention(f"{name}.{i}.attn") | _norm(f"{name}.{i}.ln_2")
        out |= _linear(f"{name}.{i}.mlp.c_fc", WIDTH, MLP_DIM) | _linear(f"{name}.{i}.mlp.c_proj", MLP_DIM, WIDTH)
    return out


def _hf_text(family: str) -> Shapes:
    out = {"text_model.embeddings.token_embedding.weight": (VOCAB, WIDTH)}
    out["text_model.embeddings.position_embedding.weight"] = (LENGTH, WIDTH)
    return out | _hf_blocks("text_model.encoder.layers", family) | _norm("text_model.final_layer_norm")


def _hf_blocks(name: str, family: str) -> Shapes:
    """CLIP's blocks list their norms after what follows them, SigLIP's before."""
    out: Shapes = {}
    for block in (f"{name}.{i}" for i in range(DEPTH)):
        parts: Shapes = {}
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            parts |= _linear(f"{block}.self_attn.{part}", WIDTH, WIDTH)
        norms, mlp = [_norm(f"{block}.layer_norm{i}") for i in (1, 2)], _hf_mlp(f"{block}.mlp")
        order = [parts, norms[0], mlp, norms[1]] if family == "clip" else [norms[0], parts, norms[1], mlp]
        for part in order:
            out |= part
    return out


def _attention(name: str) -> Shapes:
    out: Shapes = {f"{name}.in_proj_weight": (3 * WIDTH, WIDTH), f"{name}.in_proj_bias": (3 * WIDTH,)}
    return out | _linear(f"{name}.out_proj", WIDTH, WIDTH)


def _hf_mlp(name: str) -> Shapes:
    return _linear(f"{name}.fc1", WIDTH, MLP_DIM) | _linear(f"{name}.fc2", MLP_DIM, WIDTH)


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int = WIDTH) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _conv_norm(conv: str, norm: str, inputs: int, outputs: int, kernel: int) -> Shapes:
    out: Shapes = {f"{conv}.weight": (outputs, inputs, kernel, kernel)} | _norm(norm, outputs)
    out |= {f"{norm}.running_mean": (outputs,), f"{norm}.running_var": (outputs,)}
    return out | {f"{norm}.num_batches_tracked": ()}
