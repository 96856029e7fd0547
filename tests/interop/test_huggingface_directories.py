"""The settings that directories of Hugging Face describe: as transformers reads them, and as the hub has them."""

import json

import pytest
import reference_libraries

from vitjax.config import base_config
from vitjax.errors import UserError
from vitjax.interop import huggingface
from vitjax.models.published import PUBLISHED

TOWER = dict(hidden_size=64, num_attention_heads=4)
# OpenAI's ViT-L/14 has its sections twice, and in the second what differed from the defaults of its day.
L14 = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12, projection_dim=768)
L14_IMAGE = dict(hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=24, patch_size=14)
SO400M = dict(hidden_size=1152, intermediate_size=4304, num_attention_heads=16, num_hidden_layers=27)
HUB = {
    "openai/clip-vit-base-patch32": dict(
        model_type="clip", projection_dim=512, text_config_dict=None, vision_config_dict=None,
        text_config=dict(hidden_size=512, num_attention_heads=8, eos_token_id=2, bos_token_id=0, pad_token_id=1),
        vision_config=dict(hidden_size=768, patch_size=32, eos_token_id=None),
    ),
    "openai/clip-vit-large-patch14": dict(
        model_type="clip", projection_dim=768, text_config=L14 | dict(eos_token_id=2), vision_config=L14_IMAGE,
        text_config_dict=L14, vision_config_dict=L14_IMAGE,
    ),
    "google/siglip-base-patch16-224": dict(
        model_type="siglip", text_config=dict(model_type="siglip_text_model"),
        vision_config=dict(model_type="siglip_vision_model"),
    ),
    "google/siglip-so400m-patch14-384": dict(
        model_type="siglip", text_config=SO400M, vision_config=SO400M | dict(image_size=384, patch_size=14),
    ),
}  # fmt: skip
AS = dict(zip(HUB, ("ViT-B/32", "ViT-L/14", "SigLIP-B/16", "SigLIP-So400m/14@378")))
CLIP_PICTURES = dict(  # as of 2021, when numbers stood for both
    crop_size=224, do_center_crop=True, do_normalize=True, do_resize=True, resample=3, size=224,
    feature_extractor_type="CLIPFeatureExtractor", image_mean=[0.48145466, 0.4578275, 0.40821073],
    image_std=[0.26862954, 0.26130258, 0.27577711],
)  # fmt: skip


def siglip_pictures(side):
    return dict(
        do_normalize=True, do_rescale=True, do_resize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3,
        image_processor_type="SiglipImageProcessor", size=dict(height=side, width=side),
    )  # fmt: skip


def differing(found, wanted):
    """The settings that are not those of published towers."""
    return {
        f"{section}.{key}": value
        for section, values in wanted.items()
        for key, value in values.items()
        if key not in found[section] or found[section][key] != value
    }


@pytest.mark.parametrize("name", HUB)
def test_the_hubs_files_describe_the_published_towers(name, tmp_path):
    side = 384 if "384" in name else 224
    pictures = CLIP_PICTURES if "clip" in name else siglip_pictures(side)
    (tmp_path / "config.json").write_text(json.dumps(HUB[name]))
    without = huggingface.settings_of(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pictures))
    found = huggingface.settings_of(tmp_path)
    assert found == without
    differ = differing(found, PUBLISHED[AS[name]])
    # Where the scale begins and how texts are written before they are tokens are the config's; in the files of L/14 the
    # end of texts is named, which for its vocabulary is the largest id.
    assert set(differ) - {"towers.scale", "data.text_clean"} == ({"text.pool"} if "large" in name else set())
    config = base_config()
    config.data.update(found["data"])


def test_siglip_2_pads_and_cleans_as_its_own_vocabulary_does():
    found = huggingface.settings(dict(model_type="siglip", text_config=dict(vocab_size=256_000, pad_token_id=1)))
    assert found["data"]["text_pad"] == 0 and found["data"]["text_clean"] == "lower"


def test_siglips_end_is_not_clips_though_its_config_says_so():
    found = huggingface.settings(dict(model_type="siglip", text_config=dict(eos_token_id=49_407)))
    assert found["text"]["eos_id"] == 1


def test_pictures_are_made_as_the_preprocessor_says():
    clip, cut = dict(model_type="clip"), dict(do_center_crop=True, crop_size=dict(height=224, width=224))
    pictures = dict(image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3], resample=2, size=dict(shortest_edge=256))
    data = huggingface.settings(clip, pictures | cut)["data"]
    assert data["mean"] == (0.1, 0.2, 0.3) and data["std"] == (1, 2, 3) and data["resize"] == "bilinear"
    assert data["eval_crop_fraction"] == 0.875 and data["eval_aspect"] == "keep"
    data = huggingface.settings(clip, dict(size=dict(height=224, width=224), do_center_crop=False))["data"]
    assert data["eval_crop_fraction"] == 1 and data["eval_aspect"] == "squash"


@pytest.mark.parametrize(
    "facts, pictures, match",
    [
        (dict(model_type="bert"), {}, "model_type='bert'; known are clip, siglip"),
        (dict(model_type="clip", text_config=[1]), {}, r"text_config=\[1\] must be a section"),
        (dict(model_type="clip", text_config=dict(hidden_size=None)), {}, "hidden_size=None must be of type int"),
        (dict(model_type="clip", text_config=dict(eos_token_id=[2])), {}, r"text_config.eos_token_id=\[2\] must be"),
        (dict(model_type="clip", projection_dim=None), {}, "projection_dim=None must be a whole number"),
        (dict(model_type="clip", vision_config=dict(num_channels=1)), {}, "num_channels=1 must be 3"),
        (dict(model_type="clip", vision_config=dict(hidden_act="relu")), {}, "vision_config.hidden_act='relu' is not"),
        (dict(model_type="siglip", text_config=dict(projection_size=512)), {}, "projected to 512.*hidden_size=768"),
        (dict(model_type="siglip", text_config=TOWER), {}, "projected to 64.*hidden_size=768"),
        (dict(model_type="siglip", vision_config=dict(vision_use_head=False)), {}, "vision_use_head=false"),
        (dict(model_type="clip"), dict(size=256, crop_size=256), "crop_size=256 does not give pictures of 224 x 224"),
        (dict(model_type="clip"), dict(do_center_crop=False), "does not give pictures of 224 x 224"),
        (dict(model_type="clip"), dict(size=dict(height=3, width=4)), "is no square and no short side"),
        (dict(model_type="clip"), dict(resample=1), "resample=1 is not known"),
        (dict(model_type="clip"), dict(do_normalize=False), "do_normalize=false"),
    ],
)  # fmt: skip
def test_what_our_towers_do_not_have_is_refused(facts, pictures, match):
    with pytest.raises(UserError, match=match):
        huggingface.settings(facts, pictures)


def test_a_damaged_file_is_named(tmp_path):
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config.json .*fetch it again"):
            huggingface.settings_of(tmp_path)


@pytest.mark.parity
@pytest.mark.parametrize(
    "family, sections",
    [
        *((family, sections) for family in ("clip", "siglip") for sections in (
            {},
            dict(text_config=None, vision_config=None),
            dict(text_config={}, vision_config=dict(image_size=96)),
            dict(text_config=dict(num_hidden_layers=3), vision_config=None, projection_dim=256),
        )),
        ("clip", dict(text_config=dict(num_hidden_layers=3), text_config_dict=dict(vocab_size=99))),
    ],
)  # fmt: skip
def test_gaps_are_filled_as_transformers_fills_them(family, sections, tmp_path):
    transformers = reference_libraries.transformers()
    (tmp_path / "config.json").write_text(json.dumps(sections | dict(model_type=family)))
    found = huggingface.settings_of(tmp_path)
    config_class = transformers.CLIPConfig if family == "clip" else transformers.SiglipConfig
    config_class.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert huggingface.settings_of(tmp_path) == found
    # Nothing but the defaults' own values is in the table.
    written = json.loads((tmp_path / "config.json").read_text())
    for name in ("text_config", "vision_config"):
        assert set(huggingface.DEFAULTS[family][name]) <= set(written[name])
