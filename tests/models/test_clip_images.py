"""CLIP's two kinds of image tower; their outputs are compared with others' in tests/interop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_towers
from golden import wave

from vitjax import models, trees
from vitjax.errors import UserError
from vitjax.models import clip_resnet


def build(family, **changes):
    return models.build(tiny_towers.config(family, model=changes).model)


def test_the_vit_has_a_norm_before_its_blocks_and_patches_without_bias():
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    flat = trees.flatten(jax.eval_shape(build("clip").init, jax.random.key(0), images)["params"])
    plain = trees.flatten(jax.eval_shape(build("clip", name="vit").init, jax.random.key(0), images)["params"])
    assert set(flat) - set(plain) == {"norm_pre/scale", "norm_pre/bias"}
    assert set(plain) - set(flat) == {"patch/bias"}


def test_positions_of_the_vit_begin_at_the_inverse_root_of_the_width():
    module = build("clip", width=256, depth=1)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    for name in ("position", "cls", "cls_position"):
        assert params[name].std() == pytest.approx(256**-0.5, rel=0.15)


def test_the_attention_pool_is_that_of_a_loop():
    x = wave(1, (2, 2, 3, 8))
    module = clip_resnet.AttentionPool(heads=2, dtype=jnp.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    found = jax.jit(module.apply)(variables, jnp.asarray(x, jnp.float32))
    p = jax.tree.map(np.asarray, variables["params"])
    for b in range(2):
        tokens = x[b].reshape(6, 8)
        tokens = np.concatenate([tokens.mean(0, keepdims=True), tokens]) + p["position"][0]
        q, kv = tokens[0] @ p["q"]["kernel"], tokens @ p["kv"]["kernel"]
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            logits = kv[:, :8][:, part] @ q[part] / 2
            weights = np.exp(logits - logits.max())
            wanted = weights / weights.sum() @ kv[:, 8:][:, part]
            np.testing.assert_allclose(found[b, part], wanted, atol=1e-5)


def test_the_resnet_halves_by_averages_five_times():
    shapes, _ = jax.eval_shape(
        build("resnet").init_with_output, jax.random.key(0), jax.ShapeDtypeStruct((2, 96, 64, 3), jnp.float32)
    )
    assert shapes["tokens"].shape == (2, 3, 2, 128) and shapes["features"].shape == (2, 128)
    assert shapes["features"].dtype == jnp.float32
    x = jnp.arange(10.0).reshape(1, 2, 5, 1)
    np.testing.assert_array_equal(clip_resnet._halved(x)[0, 0, :, 0], [3.0, 5.0])


def test_a_block_of_the_resnet_begins_as_its_shortcut():
    block = clip_resnet.Bottleneck(width=2, stride=1, zero_init_residual=True)
    x = jnp.asarray(wave(1, (1, 4, 4, 8)), jnp.float32)
    out, _ = jax.jit(lambda key: block.init_with_output(key, x, False))(jax.random.key(0))
    np.testing.assert_array_equal(out, jnp.maximum(x, 0))


def test_the_resnet_couples_the_pictures_of_a_batch():
    assert models.couples_examples(build("resnet")) and not models.couples_examples(build("clip"))


@pytest.mark.parametrize(
    "changes, match",
    [
        (dict(blocks=(1, 1, 1)), "config.model.blocks=.* must be four numbers"),
        (dict(width=3), "config.model.width=3 must be even"),
        (dict(heads=3), r"config.model.heads=3 must divide 32 \* config.model.width=128"),
    ],
)
def test_a_wrong_setting_of_the_resnet_is_named(changes, match):
    with pytest.raises(UserError, match=match):
        build("resnet", **changes)


def test_pictures_too_small_for_the_resnet_are_refused():
    with pytest.raises(UserError, match="too small for CLIP's ResNet; give 32 or more"):
        jax.eval_shape(build("resnet").init, jax.random.key(0), jax.ShapeDtypeStruct((1, 31, 64, 3), jnp.float32))
