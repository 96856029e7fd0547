import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import wave
from ml_collections import ConfigDict

from vitjax.errors import UserError
from vitjax.models import mae, vit


def tiny(**changes):
    backbone = vit.ViT(width=16, depth=2, heads=2, mlp_dim=32, patch_px=4, posemb="sincos2d", **changes)
    return mae.MAE(backbone, mask_ratio=0.75, decoder_width=8, decoder_depth=1, decoder_heads=2)


@pytest.fixture
def images():
    return jax.random.normal(jax.random.key(1), (2, 16, 16, 3))


@pytest.fixture
def noise():
    return jnp.asarray((wave(1, (2, 16)) + 1) / 2, jnp.float32)


def test_masking_is_that_of_the_original_code(noise):
    keep, restore, mask = mae.random_masking(noise, 4)
    np.testing.assert_array_equal(keep, [[10, 4, 3, 9], [13, 0, 7, 6]])
    np.testing.assert_array_equal(restore[0], [12, 13, 7, 2, 1, 6, 11, 14, 8, 3, 0, 4, 9, 15, 10, 5])
    np.testing.assert_array_equal(mask[1], [0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0, 1, 1])


@pytest.mark.parametrize(
    "patches, ratio, wanted", [(196, 0.75, 49), (64, 0.75, 16), (16, 0.6, 6), (10, 0.9, 1)]
)
def test_the_number_of_kept_patches_is_rounded_down(patches, ratio, wanted):
    assert mae.kept(patches, ratio) == wanted


def test_restored_puts_visible_tokens_at_their_places(noise):
    keep, restore, mask = mae.random_masking(noise, 4)
    tokens = jnp.arange(8.0).reshape(2, 4, 1)
    full = mae.restored(tokens, restore, jnp.full((1, 1, 1), -1.0))
    np.testing.assert_array_equal(jnp.take_along_axis(full, keep[:, :, None], axis=1), tokens)
    np.testing.assert_array_equal(full[:, :, 0] == -1, mask == 1)


# Trainable counts of the published models.
@pytest.mark.parametrize(
    "backbone, decoder, size_px, wanted",
    [
        (dict(patch_px=16, **vit.VARIANTS["B"]), (512, 8, 16), 224, 111_655_680),
        (dict(patch_px=16, **vit.VARIANTS["L"]), (512, 8, 16), 224, 329_239_296),
        (dict(patch_px=14, **vit.VARIANTS["H"]), (512, 8, 16), 224, 656_613_964),
        (dict(patch_px=4, **vit.VARIANTS["S"]), (512, 8, 16), 32, 46_755_888),
        (dict(patch_px=4, **vit.VARIANTS["Ti"]), (128, 4, 4), 32, 6_172_720),
    ],
)
def test_parameter_count_is_the_published_one(backbone, decoder, size_px, wanted):
    model = mae.MAE(vit.ViT(posemb="sincos2d", scan=True, **backbone), 0.75, *decoder)
    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32)
    noise = jax.ShapeDtypeStruct((1, (size_px // backbone["patch_px"]) ** 2), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, noise)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == wanted


@pytest.mark.parametrize("class_token, pool", [(True, "cls"), (False, "gap")])
def test_prediction_covers_all_patches_in_float32(images, noise, class_token, pool):
    model = tiny(class_token=class_token, pool=pool, dtype=jnp.bfloat16)
    out, _ = jax.jit(model.init_with_output)(jax.random.key(0), images, noise)
    assert out["pred"].shape == (2, 16, 48) and out["pred"].dtype == jnp.float32
    np.testing.assert_array_equal(out["mask"].sum(axis=1), [12, 12])


def test_the_encoder_does_not_see_removed_patches(images, noise):
    model = tiny()
    out, variables = jax.jit(model.init_with_output)(jax.random.key(0), images, noise)
    removed = out["mask"].reshape(2, 4, 1, 4, 1, 1) * jnp.ones((1, 1, 4, 1, 4, 1))
    blinded = jnp.where(removed.reshape(2, 16, 16, 1) == 1, 100.0, images)
    again = jax.jit(model.apply)(variables, blinded, noise)
    np.testing.assert_allclose(again["pred"], out["pred"], atol=1e-6)


def test_encoder_of_all_patches_is_the_backbone(images):
    model = tiny()
    backbone = model.backbone
    variables = jax.jit(model.init)(jax.random.key(0), images, jnp.zeros((2, 16)))
    encoder = {"params": variables["params"]["backbone"]}
    features = jax.jit(backbone.apply)(encoder, images)["features"]
    order = jnp.tile(jnp.arange(16)[::-1], (2, 1))
    encode = functools.partial(backbone.apply, method=lambda m, x, keep: m.encode(m.embed(x, keep)))
    shuffled = jax.jit(encode)(encoder, images, order)
    np.testing.assert_allclose(shuffled[:, 0], features, atol=1e-5)


def config(**changes):
    model = dict(
        name="vit", width=16, depth=1, heads=2, mlp_dim=32, patch_px=4, class_token=True, pool="cls",
        posemb="sincos2d", norm_eps=1e-6, activation="gelu", drop_path=0.0, scan=False, remat=False,
        attention="xla",
    )  # fmt: skip
    objective = dict(mask_ratio=0.75, decoder_width=16, decoder_depth=1, decoder_heads=4)
    for key, value in changes.items():
        (model if key in model else objective)[key] = value
    return ConfigDict(model), ConfigDict(objective)


@pytest.mark.parametrize(
    "changes, match",
    [
        (dict(mask_ratio=1.0), "config.objective.mask_ratio=1.0 must lie in 0..1"),
        (dict(decoder_heads=3), "config.objective.decoder_width=16 must be a multiple"),
        (dict(pool="map"), "config.model.pool='map' has no final norm"),
        (dict(name="resnet"), "config.model.name='resnet' cannot be masked"),
    ],
)
def test_a_wrong_setting_is_named(changes, match):
    with pytest.raises(UserError, match=match):
        mae.make(*config(**changes))
