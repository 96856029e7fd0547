"""CLIP's and SigLIP's weights in each layout: the outputs of the golden models, and the same bits written back.

The numbers were made in float64 with transformers 4.57; 5.23 gives the same.
"""

import foreign_towers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_towers
from golden import hash_weights, wave

from vitjax import trees
from vitjax.errors import UserError
from vitjax.interop import table
from vitjax.interop import two_towers as weights_of

LAYOUTS = {
    "openai vit": ("clip", "openai", foreign_towers.openai_vit),
    "openai resnet": ("resnet", "openai", foreign_towers.openai_resnet),
    "hf_clip": ("clip", "hf_clip", foreign_towers.hf_clip),
    "hf_siglip": ("siglip", "hf_siglip", foreign_towers.hf_siglip),
    "open_clip_siglip": ("siglip", "open_clip_siglip", foreign_towers.open_clip_siglip),
}
CLIP_IDS = [[62, 5, 9, 20, 63, 0, 0, 0], [62, 1, 2, 3, 4, 5, 6, 63]]
SIGLIP_IDS = [[5, 9, 20, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6, 7, 1]]


def outputs(module, flat, images, ids):
    """What `module` makes of the weights, which must be exactly those that it has."""
    images, ids = jnp.asarray(images, jnp.float32), jnp.asarray(ids)
    variables = trees.unflatten({path: jnp.asarray(x, jnp.float32) for path, x in flat.items()})
    wanted = jax.eval_shape(module.init, jax.random.key(0), images, ids)
    assert jax.tree.map(jnp.shape, wanted) == jax.tree.map(jnp.shape, variables)
    with jax.default_matmul_precision("highest"):
        out = jax.jit(module.apply)(variables, images, ids)
    return out | {"logits": out["scale"] * out["image_embed"] @ out["text_embed"].T + out["bias"]}


def assert_close(found, wanted):
    np.testing.assert_allclose(np.asarray(found).reshape(-1)[: len(wanted)], wanted, atol=1e-5)


@pytest.mark.parametrize("pool", ["argmax", "eos"])
def test_hf_clip_has_the_same_embeddings_and_logits(pool):
    module = tiny_towers.build("clip", text=dict(pool=pool))
    flat = weights_of.read(hash_weights(foreign_towers.hf_clip()), module)
    out = outputs(module, flat, wave(1, (2, 16, 16, 3)), CLIP_IDS)
    assert_close(out["image_embed"], [-0.022678699, -0.391084501, 0.302160243, -0.579755417, -0.073213805])
    assert_close(out["text_embed"], [-0.013141471, -0.185364182, 0.309487659, 0.252588699, 0.323566693])
    assert_close(out["logits"], [1.256054920, 3.928741259, 1.572476259, 4.131238852])


def test_hf_siglip_has_the_same_embeddings_and_logits():
    module = tiny_towers.build("siglip")
    flat = weights_of.read(hash_weights(foreign_towers.hf_siglip()), module)
    out = outputs(module, flat, wave(1, (2, 16, 16, 3)), SIGLIP_IDS)
    assert_close(out["image_embed"], [-0.263699548, 0.126472043, -0.171172600, 0.093159888, 0.255977982])
    assert_close(out["text_embed"], [-0.132717139, -0.148082280, 0.290850801, -0.052115734, 0.029350974])
    assert_close(out["logits"].T, [0.959791482, -4.159412178, -5.200027988, -5.799563213])


@pytest.mark.parametrize("name", LAYOUTS)
def test_round_trip_keeps_every_bit(name):
    family, layout, shapes = LAYOUTS[name]
    weights, module = hash_weights(shapes()), tiny_towers.build(family)
    assert weights_of.layout(weights) == layout
    written = table.write(weights_of.read(weights, module), weights_of.rows(module, layout))
    assert sorted(written) == sorted(weights)
    for key, x in weights.items():
        assert written[key].dtype == x.dtype, key
        np.testing.assert_array_equal(written[key], x, err_msg=key)


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_fills_exactly_the_variables_of_the_towers(name):
    family, _, shapes = LAYOUTS[name]
    module, size_px = tiny_towers.build(family), 64 if family == "resnet" else 16
    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), "float32")
    wanted = jax.eval_shape(module.init, jax.random.key(0), images, jax.ShapeDtypeStruct((1, 8), "int32"))
    flat = weights_of.read(hash_weights(shapes()), module)
    assert {k: x.shape for k, x in flat.items()} == {k: x.shape for k, x in trees.flatten(wanted).items()}


def test_two_layouts_of_one_model_are_the_same_weights():
    module = tiny_towers.build("clip")
    flat = weights_of.read(hash_weights(foreign_towers.hf_clip()), module)
    openai = table.write(flat, weights_of.rows(module, "openai"))
    assert {k: x.shape for k, x in openai.items()} == foreign_towers.openai_vit()
    again = weights_of.read(openai, module)
    assert all(np.array_equal(again[path], x) for path, x in flat.items())


def test_constants_beside_the_weights_are_passed_over():
    module, weights = tiny_towers.build("clip"), hash_weights(foreign_towers.openai_vit())
    beside = {"input_resolution": np.asarray(16), "context_length": np.asarray(8), "vocab_size": np.asarray(64)}
    assert sorted(weights_of.read(weights | beside, module)) == sorted(weights_of.read(weights, module))


def test_half_precision_stays_half_precision():
    weights = {k: x.astype(np.float16) for k, x in hash_weights(foreign_towers.openai_vit()).items()}
    flat = weights_of.read(weights, tiny_towers.build("clip"))
    assert {x.dtype for x in flat.values()} == {np.dtype("float16")}


def test_weights_of_something_else_are_refused():
    with pytest.raises(UserError, match="neither CLIP nor SigLIP: none of visual.class_embedding"):
        weights_of.read({"conv1.weight": np.zeros(1)}, tiny_towers.build("clip"))


def test_weights_of_a_deeper_model_are_refused():
    weights = hash_weights(foreign_towers.hf_clip())
    with pytest.raises(UserError, match=r"unexpected: text_model.encoder.layers.1"):
        weights_of.read(weights, tiny_towers.build("clip", text=dict(depth=1)))
