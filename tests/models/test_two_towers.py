import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_towers
from golden import wave

from vitjax.errors import UserError
from vitjax.models import two_towers

IDS = jnp.asarray([[62, 5, 9, 20, 63, 0, 0, 0], [62, 1, 2, 3, 4, 5, 6, 63], [62, 63, 0, 0, 0, 0, 0, 0]])


def pictures(size_px=16, count=2):
    return jnp.asarray(wave(1, (count, size_px, size_px, 3)), jnp.float32)


@functools.cache
def initial(family):
    module = tiny_towers.build(family)
    return module, jax.jit(module.init)(jax.random.key(0), pictures(), IDS)


@pytest.mark.parametrize("family, width, scale, bias", [("clip", 12, 1 / 0.07, 0.0), ("siglip", 16, 10.0, -10.0)])
def test_embeddings_are_unit_vectors_and_scale_and_bias_begin_as_published(family, width, scale, bias):
    module, variables = initial(family)
    out = jax.jit(module.apply)(variables, pictures(), IDS)  # two pictures, three texts
    assert out["image_embed"].shape == (2, width) and out["text_embed"].shape == (3, width)
    for name in ("image_embed", "text_embed"):
        np.testing.assert_allclose(np.linalg.norm(out[name], axis=-1), 1, rtol=1e-5)
    assert out["scale"] == pytest.approx(scale, rel=1e-5) and out["bias"] == bias
    assert variables["params"]["logit_scale"] == pytest.approx(math.log(scale), rel=1e-6)
    assert ("logit_bias" in variables["params"]) == (family == "siglip")


def test_each_tower_alone_gives_what_both_give():
    module, variables = initial("clip")
    both = jax.jit(module.apply)(variables, pictures(), IDS)
    image = jax.jit(functools.partial(module.apply, method="embed_images"))(variables, pictures())
    text = jax.jit(functools.partial(module.apply, method="embed_texts"))(variables, IDS)
    np.testing.assert_allclose(image, both["image_embed"], atol=1e-6)
    np.testing.assert_allclose(text, both["text_embed"], atol=1e-6)


def test_kept_features_are_projected_as_those_of_pictures():
    module, variables = initial("clip")
    backbone = {"params": variables["params"]["backbone"]}
    features = jax.jit(module.backbone.apply)(backbone, pictures())["features"]
    found = module.apply(variables, features, method="project_images")
    image = jax.jit(functools.partial(module.apply, method="embed_images"))(variables, pictures())
    np.testing.assert_allclose(found, image, atol=1e-6)


def test_embeddings_are_float32_whatever_is_computed_in():
    c = tiny_towers.config("clip")
    module = two_towers.make(c.model, c.text, c.towers, jnp.bfloat16)
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), pictures(), IDS)
    assert {x.dtype for x in jax.tree.leaves((out, variables))} == {jnp.dtype("float32")}


def test_training_a_resnet_gives_new_running_statistics_and_nothing_else():
    module, images = tiny_towers.build("resnet"), pictures(64)
    variables = jax.eval_shape(module.init, jax.random.key(0), images, IDS)
    step = functools.partial(module.apply, train=True, mutable=["batch_stats"])
    _, new = jax.eval_shape(step, variables, images, IDS)
    assert new == {"batch_stats": variables["batch_stats"]} and set(new["batch_stats"]) == {"backbone"}


def test_a_tower_without_projection_must_have_the_width_of_the_embedding():
    module = tiny_towers.build("clip", towers=dict(image_projection="none"))
    with pytest.raises(UserError, match="config.towers.image_projection='none' needs .*embed_dim=12 features, not 16"):
        jax.eval_shape(module.init, jax.random.key(0), pictures(), IDS)


@pytest.mark.parametrize(
    "changes, match",
    [
        (dict(text_projection="mlp"), "config.towers.text_projection='mlp' is not known; choose from none, linear"),
        (dict(scale=0.0), "config.towers.scale=0.0 must be above 0"),
    ],
)
def test_a_wrong_setting_is_named(changes, match):
    with pytest.raises(UserError, match=match):
        tiny_towers.build("clip", towers=changes)
