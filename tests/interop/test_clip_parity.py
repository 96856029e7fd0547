"""The embeddings of transformers' and open_clip's fresh models; written back, the weights are theirs again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_libraries
import tiny_towers
from golden import wave
from ml_collections import ConfigDict
from PIL import Image

from vitjax import augment, convert, trees
from vitjax.interop import huggingface, table, two_towers
from vitjax.models import two_towers as towers_model

pytestmark = pytest.mark.parity

# The end of text, 63, is the largest id; SigLIP pads with 1.
IDS = np.asarray([[62, 5, 9, 63, 0, 0, 0, 0], [62, 1, 2, 3, 4, 5, 6, 63], [7, 9, 63, 1, 1, 1, 1, 1]])


def ours(module, flat, images):
    variables = trees.unflatten({path: jnp.asarray(x) for path, x in flat.items()})
    with jax.default_matmul_precision("highest"):
        return jax.jit(module.apply)(variables, jnp.asarray(images, jnp.float32), jnp.asarray(IDS))


def numpy_state(model):
    return {name: x.detach().numpy() for name, x in model.state_dict().items()}


def load_back(torch, model, flat, rows):
    """The weights written back are those that the model has, bit for bit."""
    written = table.write(flat, rows)
    before = numpy_state(model)
    for name, x in written.items():
        np.testing.assert_array_equal(x, before[name], err_msg=name)
    model.load_state_dict({name: torch.from_numpy(x) for name, x in written.items()}, strict=False)
    buffers = {name for name, _ in model.named_buffers()}
    assert set(before) - set(written) <= buffers


def tensors(torch, size_px):
    images = wave(1, (3, size_px, size_px, 3)).astype(np.float32)
    return images, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(IDS)


def only_what_differs(facts, defaults):
    """A config.json as the hub has them: without what is transformers' default."""
    return {
        key: only_what_differs(value, defaults[key]) if isinstance(value, dict) else value
        for key, value in facts.items()
        if key == "model_type" or key not in defaults or value != defaults[key]
    }


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_transformers(family, tmp_path):
    """A directory that transformers wrote; SigLIP's text tower is wider than the embedding."""
    torch, transformers = reference_libraries.torch(), reference_libraries.transformers()
    c = tiny_towers.config(family)
    tower = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    text = tower | dict(vocab_size=64, max_position_embeddings=8, pad_token_id=1, bos_token_id=62, eos_token_id=63)
    vision = tower | dict(image_size=16, patch_size=4)
    if family == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
        model = transformers.CLIPModel(config)
    else:
        text |= dict(hidden_size=24, projection_size=16)
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model = transformers.SiglipModel(config)
    model.save_pretrained(tmp_path)
    file = tmp_path / huggingface.CONFIG
    file.write_text(json.dumps(only_what_differs(json.loads(file.read_text()), type(config)().to_dict())))
    assert "hidden_act" not in file.read_text()
    c.update(huggingface.settings_of(tmp_path))
    module = towers_model.make(c.model, c.text, c.towers)
    flat = two_towers.read(convert.read(tmp_path), module)
    images, pixels, ids = tensors(torch, 16)
    with torch.no_grad():
        wanted = model.eval()(input_ids=ids, pixel_values=pixels)
    out = ours(module, flat, images)
    np.testing.assert_allclose(out["image_embed"], wanted.image_embeds, atol=1e-4)
    np.testing.assert_allclose(out["text_embed"], wanted.text_embeds, atol=1e-4)
    load_back(torch, model, flat, two_towers.rows(module, f"hf_{family}"))


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_pictures_are_fed_as_the_image_processor_feeds_them(family):
    reference_libraries.torch()
    transformers, data = reference_libraries.transformers(), tiny_towers.config(family).data
    draw, (height, width) = np.random.default_rng(0), (40, 61)
    picture = draw.integers(64, 192, (height // 4 + 1, width // 4 + 1, 3)).repeat(4, 0).repeat(4, 1)[:height, :width]
    sizes = dict(height=16, width=16), dict(shortest_edge=16)
    if family == "clip":
        processor = transformers.CLIPImageProcessorPil(size=sizes[1], crop_size=sizes[0])
    else:
        processor = transformers.SiglipImageProcessorPil(size=sizes[0])
    wanted = processor(Image.fromarray(picture.astype(np.uint8)), return_tensors="np")["pixel_values"][0]
    canvas = np.zeros((1, 64, 64, 3), np.uint8)
    canvas[0, :height, :width] = picture
    view = augment.eval_view(ConfigDict(dict(data=data)))
    out = jax.jit(view)({"image": canvas, "size": np.asarray([[height, width]], np.int32)})
    # Pillow rounds to whole grey levels twice, and would cut off in between what overshoots.
    np.testing.assert_allclose(out[0].transpose(2, 0, 1), wanted, atol=1.51 / 255 / min(data.std))


@pytest.mark.parametrize("family", ["clip", "resnet", "siglip"])
def test_open_clip(family):
    torch, open_clip = reference_libraries.torch(), reference_libraries.open_clip()
    module, size_px = tiny_towers.build(family, **OPEN_CLIP_CHANGES[family]), 64 if family == "resnet" else 16
    model = getattr(open_clip.model, "CustomTextCLIP" if family == "siglip" else "CLIP")(**OPEN_CLIP[family])
    if family == "siglip":
        model.visual.trunk = reference_libraries.timm().models.VisionTransformer(
            img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.0, num_classes=0,
            global_pool="map", class_token=False,
        )  # fmt: skip
    with torch.no_grad():
        for name, x in model.named_parameters():  # open_clip begins the last norms of a ResNet's blocks at zero
            if name.endswith("bn3.weight"):
                x.fill_(0.5)
        for name, x in model.named_buffers():
            if name.endswith("running_var"):
                x.mul_(1.5)
    flat = two_towers.read(numpy_state(model), module)
    images, pixels, ids = tensors(torch, size_px)
    with torch.no_grad():
        model = model.eval()
        image, text = model.encode_image(pixels, normalize=True), model.encode_text(ids, normalize=True)
    out = ours(module, flat, images)
    np.testing.assert_allclose(out["image_embed"], image, atol=1e-4)
    np.testing.assert_allclose(out["text_embed"], text, atol=1e-4)
    assert out["scale"] == pytest.approx(float(model.logit_scale.exp()), rel=1e-6)
    layout = "open_clip_siglip" if family == "siglip" else "openai"
    load_back(torch, model, flat, two_towers.rows(module, layout))


_TEXT = dict(context_length=8, vocab_size=64, width=16, heads=2, layers=2, mlp_ratio=2.0)
OPEN_CLIP = {
    "clip": dict(
        embed_dim=12,
        quick_gelu=True,
        vision_cfg=dict(image_size=16, patch_size=4, width=16, head_width=8, layers=2, mlp_ratio=2.0),
        text_cfg=_TEXT,
    ),
    "resnet": dict(
        embed_dim=12,
        quick_gelu=True,
        vision_cfg=dict(image_size=64, layers=[2, 1, 1, 1], width=4, head_width=64),
        text_cfg=_TEXT,
    ),
    # The image tower is put in place below: timm names none that is small. Both have the exact GELU by default.
    "siglip": dict(
        embed_dim=16,
        init_logit_bias=-10,
        vision_cfg=dict(
            image_size=16, timm_model_name="test_vit", timm_pool="token", timm_proj="none"
        ),
        text_cfg=_TEXT
        | dict(no_causal_mask=True, proj_bias=True, pool_type="last", norm_kwargs=dict(eps=1e-6)),
    ),
}  # fmt: skip
OPEN_CLIP_CHANGES = {
    "clip": {},
    "resnet": dict(model=dict(blocks=(2, 1, 1, 1), heads=2)),
    "siglip": dict(model=dict(activation="gelu"), text=dict(activation="gelu")),
}
