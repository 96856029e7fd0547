import jax
import pytest
from ml_collections import ConfigDict

from vitjax import trees
from vitjax.config import base_config, form
from vitjax.data import tokenize
from vitjax.models import two_towers
from vitjax.models.published import PUBLISHED

SPEED = dict(scan=True, remat=False, attention="xla")
# Of the models that transformers 5 and open_clip 3.3 build; OpenAI's and SigLIP's own are equal.
COUNTS = {
    "ViT-B/32": 151_277_313,
    "ViT-B/16": 149_620_737,
    "ViT-L/14": 427_616_513,
    "ViT-L/14@336": 427_944_193,
    "RN50": 102_007_137,
    "RN101": 119_688_033,
    "RN50x4": 178_300_601,
    "RN50x16": 290_979_217,
    "RN50x64": 623_258_305,
    "SigLIP-B/16": 203_155_970,
    "SigLIP-B/16@256": 203_202_050,
    "SigLIP-B/16@384": 203_447_810,
    "SigLIP-B/16@512": 203_791_874,
    "SigLIP-L/16@256": 652_150_786,
    "SigLIP-L/16@384": 652_478_466,
    "SigLIP-So400m/14": 877_360_306,
    "SigLIP-So400m/14@378": 877_960_498,
}


def shapes(settings):
    """The variables of a model, of which nothing is computed."""
    c = ConfigDict(settings)
    c.text.update(SPEED)
    if c.model.name != "clip_resnet":
        c.model.update(SPEED)
    images = jax.ShapeDtypeStruct((1, c.data.size_px, c.data.size_px, 3), "float32")
    ids = jax.ShapeDtypeStruct((1, c.data.text_length), "int32")
    module = two_towers.make(c.model, c.text, c.towers)
    return jax.eval_shape(module.init, jax.random.key(0), images, ids)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count_is_the_published_one(name):
    assert count(shapes(PUBLISHED[name])["params"]) == COUNTS[name]


@pytest.mark.parametrize(
    "name, image, text",
    [
        ("ViT-B/32", 87_456_000, 63_165_952),
        ("ViT-B/16", 85_799_424, 63_165_952),
        ("ViT-L/14", 303_179_776, 123_060_480),
        ("SigLIP-B/16", 92_884_224, 110_271_744 - (768 * 768 + 768)),
    ],
)
def test_each_tower_has_its_published_count_without_its_projection(name, image, text):
    params = shapes(PUBLISHED[name])["params"]
    assert (count(params["backbone"]), count(params["text"])) == (image, text)


def test_the_running_statistics_of_the_published_resnet_are_no_parameters():
    variables = shapes(PUBLISHED["RN50"])
    # The 59,232 buffers of the original also count its 55 batch norms' steps, and the causal mask (77 x 77).
    assert count(variables["batch_stats"]) == 59_232 - 55 - 77 * 77


def test_small_towers_have_the_counts_of_the_reference():
    """ViT-Ti/4 of 32 px and texts of 32 tokens of 4096; counts of transformers' models."""
    small = dict(width=192, depth=4, heads=3, mlp_dim=768, vocab_size=4096)
    for name, wanted in (("ViT-B/32", 8_007_169), ("SigLIP-B/16", 8_414_594)):
        c = ConfigDict(PUBLISHED[name])
        c.data.update(size_px=32, text_length=32)
        c.model.update(width=192, depth=12, heads=3, mlp_dim=768, patch_px=4)
        c.text.update(small, eos_id=1)
        c.towers.embed_dim = 192
        assert count(shapes(c)["params"]) == wanted


def test_weight_names_are_those_that_sharding_and_layer_decay_know():
    flat = trees.unstack(trees.flatten(shapes(PUBLISHED["ViT-B/32"])["params"]))
    assert flat["text/block_11/attention/qkv/kernel"].shape == (512, 1536)
    assert flat["backbone/block_00/mlp/fc1/kernel"].shape == (768, 3072)
    assert "backbone/patch/bias" not in flat and flat["backbone/norm_pre/scale"].shape == (768,)


def test_texts_of_published_siglip_are_cleaned_and_padded_as_it_was_trained():
    data = base_config().data
    data.update(PUBLISHED["SigLIP-B/16"]["data"])
    ids = tokenize.make(data).encode("A dog_house!")
    data.update(text_clean="", text_pad=None)
    written = 2 + len("a dog house")
    assert ids[:written].tolist() == tokenize.make(data).encode("a dog house")[:written].tolist()
    assert set(ids[written:].tolist()) == {1} and len(ids) == 64


@pytest.mark.parametrize("name", ["ViT-B/32", "RN50", "SigLIP-B/16"])
def test_the_tiny_form_of_published_towers_is_tiny_and_fits_together(name):
    c = base_config()
    c.data.update(PUBLISHED[name]["data"])
    for section in ("model", "text", "towers"):
        c[section] = ConfigDict(PUBLISHED[name][section])
    c.text.vocab_size, c.text.eos_id = 64, 63
    assert count(shapes(form(c, "tiny"))["params"]) < 10_000_000
