import json

import jax
import numpy as np
import pytest
import reference_libraries
import tiny_towers
from golden import wave
from ml_collections import ConfigDict
from own_methods import plain_towers
from safetensors.numpy import load_file

from vitjax import experiment, export, trees
from vitjax.config import Tracked, base_config
from vitjax.errors import UserError
from vitjax.interop import huggingface
from vitjax.models import two_towers


def built(family, tmp_path, **changes):
    """An experiment of tiny towers with scanned blocks, and fresh weights for it; texts are bytes."""
    config = base_config()
    changes["text"] = dict(vocab_size=259) | changes.get("text", {})
    tiny = tiny_towers.config(family, **changes)
    config.data.update(tiny.data)
    config.total_steps = 1
    for name in ("model", "text", "towers"):
        config[name] = tiny[name]
    if family != "resnet":
        config.model.scan = config.text.scan = True
    config.objective.name = "own_methods.plain_towers"
    config = Tracked(config)
    spec = plain_towers.surroundings_spec(config.data.size_px)
    made = experiment.build(config, experiment.surroundings(config, 8, {}, spec), tmp_path)
    return made, jax.jit(lambda: made.objective.init(jax.random.key(0), None))().params


@pytest.fixture(autouse=True)
def few_comparisons(monkeypatch):
    """Each batch that the export compares costs compilations."""
    monkeypatch.setattr(export, "BATCHES", (2,))


@pytest.mark.parametrize("family, name", [("clip", "CLIPModel"), ("siglip", "SiglipModel")])
def test_the_directory_has_the_config_the_weights_and_the_pictures_preparation(family, name, tmp_path):
    made, params = built(family, tmp_path)
    export.write_transformers(made, {"params": params}, 1, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [name] and config["vision_config"]["image_size"] == 16
    assert config["text_config"]["max_position_embeddings"] == 8
    prepared = json.loads((tmp_path / "preprocessor_config.json").read_text())
    square = {"height": 16, "width": 16}
    assert prepared["size"] == ({"shortest_edge": 16} if family == "clip" else square)
    assert prepared["crop_size"] == square
    assert prepared["image_mean"] == list(made.config.data.mean) and prepared["resample"] == 3
    weights = load_file(tmp_path / "model.safetensors")
    assert {x.dtype for x in weights.values()} == {np.dtype("float32")}
    kernel = params["text"]["blocks"]["attention"]["qkv"]["kernel"]
    np.testing.assert_array_equal(
        weights["text_model.encoder.layers.1.self_attn.k_proj.weight"], kernel[1, :, 16:32].T
    )


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_the_settings_come_back_out_of_the_config(family, tmp_path):
    pool = dict(pool="eos") if family == "clip" else {}
    data = dict(mean=(0.1, 0.2, 0.3), resize="bilinear", eval_crop_fraction=16 / 29, text_pad=5)
    made, params = built(family, tmp_path, text=dict(activation="gelu", norm_eps=1e-4, **pool), data=data)
    flat = trees.unstack(trees.flatten({"params": params}))
    found = huggingface.settings(*huggingface.files(made.config, flat).json.values())
    for section, values in found.items():
        for key, value in values.items():
            assert made.config[section][key] == value, (section, key)
    missing = {"scan", "remat", "attention"}  # what changes no number
    assert set(made.config.text) - set(found["text"]) == missing
    assert set(made.config.model) - set(found["model"]) == missing
    assert set(made.config.towers) - set(found["towers"]) == {"scale"}


def test_weights_that_come_back_otherwise_are_an_error(tmp_path, monkeypatch):
    made, params = built("clip", tmp_path)
    read = export.load_file
    monkeypatch.setattr(export, "load_file", lambda path: {k: x + (x.ndim == 0) for k, x in read(path).items()})
    with pytest.raises(RuntimeError, match="are not the run's"):
        export.write_transformers(made, {"params": params}, 1, tmp_path)


@pytest.mark.parametrize("file, wrong", [
    ("config.json", lambda facts: facts["text_config"].update(eos_token_id=ord("a") + 3)),
    ("config.json", lambda facts: facts["vision_config"].update(hidden_act="gelu")),
    ("preprocessor_config.json", lambda facts: facts.update(image_mean=[0.5, 0.5, 0.5])),
])  # fmt: skip
def test_a_file_that_describes_another_model_is_an_error(file, wrong, tmp_path, monkeypatch):
    made, params = built("clip", tmp_path)
    write = huggingface.files

    def wrongly(config, flat):
        files = write(config, flat)
        wrong(files.json[file])
        return files

    monkeypatch.setattr(huggingface, "files", wrongly)
    with pytest.raises(RuntimeError, match="exported model's (image|text)_embed differ from the run's"):
        export.write_transformers(made, {"params": params}, 1, tmp_path)


def test_the_tokenizers_own_vocabulary_is_counted(tmp_path):
    made, params = built("clip", tmp_path)
    config = ConfigDict(made.config.to_dict())
    config.text.vocab_size = 0
    flat = trees.unstack(trees.flatten({"params": params}))
    assert huggingface.files(config, flat).json["config.json"]["text_config"]["vocab_size"] == 259


@pytest.mark.parametrize(
    "family, changes, match",
    [
        ("clip", dict(model=dict(pool="gap")), "CLIPModel.*would need config.model.pool='cls', not 'gap'"),
        ("clip", dict(text=dict(pool="eos", eos_id=2)), "config.text.pool='eos' with config.text.eos_id=2"),
        ("clip", dict(text=dict(pool="last")), "config.text.pool='last'"),
        ("resnet", {}, "config.model.name='clip_vit', not 'clip_resnet'"),
        ("siglip", dict(towers=dict(bias=None)), "SiglipModel.*a number for config.towers.bias"),
    ],
)
def test_a_model_that_transformers_does_not_have_is_refused(family, changes, match):
    config = base_config()
    for name, section in tiny_towers.config(family, **changes).items():
        config[name] = section
    with pytest.raises(UserError, match=match):
        huggingface.files(config, {})


def test_a_model_without_a_text_tower_is_refused():
    with pytest.raises(UserError, match="--format=transformers writes models of an image and a text tower"):
        huggingface.files(base_config(), {})


@pytest.mark.parity
@pytest.mark.parametrize("family, changes", [("clip", {}), ("clip", dict(text=dict(pool="eos"))), ("siglip", {})])
def test_transformers_opens_it_with_no_missing_and_no_unexpected_key(family, changes, tmp_path):
    torch, transformers = reference_libraries.torch(), reference_libraries.transformers()
    made, params = built(family, tmp_path, **changes)
    export.write_transformers(made, {"params": params}, 1, tmp_path)
    model_class = transformers.CLIPModel if family == "clip" else transformers.SiglipModel
    model, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    images = wave(1, (2, 16, 16, 3)).astype(np.float32)
    # The first end of text (63) is not the last token, and SigLIP's padding (1) is seen.
    ids = np.asarray([[62, 5, 9, 63, 7, 1, 1, 1], [62, 1, 2, 3, 4, 5, 6, 63]])
    module = two_towers.make(made.config.model, made.config.text, made.config.towers)
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(module.apply)({"params": params}, images, ids)
    with torch.no_grad():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        out = model.eval()(input_ids=torch.from_numpy(ids), pixel_values=pixels)
    np.testing.assert_allclose(ours["image_embed"], out.image_embeds, atol=1e-4)
    np.testing.assert_allclose(ours["text_embed"], out.text_embeds, atol=1e-4)
    logits = ours["scale"] * ours["image_embed"] @ ours["text_embed"].T + ours["bias"]
    np.testing.assert_allclose(logits, out.logits_per_image, rtol=1e-4, atol=1e-3)
    assert transformers.AutoConfig.from_pretrained(tmp_path).model_type == family
    again = huggingface.settings(transformers.AutoConfig.from_pretrained(tmp_path).to_dict())
    assert again["text"]["pool"] == made.config.text.pool
