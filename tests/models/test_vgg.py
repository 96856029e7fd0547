import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vitjax import models
from vitjax.errors import UserError
from vitjax.models import vgg


def config(**changes):
    settings = dict(name="vgg", depth=11, width=8, norm=True, head_widths=(), dropout=0.5)
    return ConfigDict(settings | changes)


def small(**changes):
    """Two stages instead of five."""
    return vgg.VGG(stages=((4,), (4, 8)), **changes)


def pictures(side=8):
    return jax.random.normal(jax.random.key(1), (3, side, side, 3))


def test_the_layers_of_vgg_16_are_those_of_the_papers_column_d():
    wanted = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
    assert vgg.stages(16) == wanted and sum(map(len, wanted)) == 13


@pytest.mark.parametrize(
    "size_px, places, changes, features",
    [(32, 1, dict(width=64), 512), (224, 7, dict(width=64), 512), (64, 2, dict(head_widths=(12, 10)), 10)],
)
def test_features_are_the_mean_over_places_or_what_the_linear_layers_make(size_px, places, changes, features):
    module = models.build(config(**changes), jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, size_px, size_px, 3), jnp.float32)
    out = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], images)
    assert out["tokens"].shape == (2, places, places, 8 * changes.get("width", 8))
    assert out["features"].shape == (2, features) and out["features"].dtype == jnp.float32


def test_mean_features_are_those_of_the_tokens():
    out, _ = jax.jit(small().init_with_output)(jax.random.key(0), pictures())
    np.testing.assert_allclose(out["features"], out["tokens"].mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("norm", [True, False])
def test_pictures_are_coupled_by_batch_norm_only(norm):
    module = small(norm=norm)
    assert models.couples_examples(module) == norm
    variables = jax.jit(module.init)(jax.random.key(0), pictures())
    assert ("batch_stats" in variables) == norm
    apply = jax.jit(lambda x: module.apply(variables, x, True, mutable=["batch_stats"])[0]["features"])
    changed = apply(pictures().at[1:].mul(2))[0]
    assert np.allclose(changed, apply(pictures())[0], atol=1e-6) != norm


def test_dropout_is_of_training_only():
    module = small(norm=False, head_widths=(64,), dropout=0.5)
    variables = jax.jit(module.init)(jax.random.key(0), pictures())
    apply = jax.jit(
        lambda seed, train: module.apply(variables, pictures(), train, rngs={"dropout": seed})["features"],
        static_argnums=1,
    )
    plain, dropped = apply(jax.random.key(2), False), apply(jax.random.key(2), True)
    np.testing.assert_array_equal(plain, apply(jax.random.key(3), False))
    kept = np.asarray(dropped != 0)
    assert 0.3 < kept[np.asarray(plain) != 0].mean() < 0.7
    np.testing.assert_allclose(dropped[kept], 2 * plain[kept], rtol=1e-5)


def test_cells_overlap_or_repeat_a_place_as_in_torch():
    # torch.nn.AdaptiveAvgPool1d(3) of (1, 2, 3, 4) and of (1, 2).
    column = jnp.asarray([1.0, 2, 3, 4]).reshape(1, 4, 1, 1)
    np.testing.assert_allclose(vgg.adaptive_mean(column, 3)[0, :, 0, 0], [1.5, 2.5, 3.5])
    np.testing.assert_allclose(vgg.adaptive_mean(column[:, :2], 3)[0, :, 0, 0], [1, 1.5, 2])


@pytest.mark.parametrize(
    "changes, match",
    [
        (dict(depth=12), "config.model.depth=12 is not known; choose from 11, 13, 16, 19"),
        (dict(width=0), "config.model.width=0 and .* must be 1 or more"),
        (dict(head_widths=(4096, 0)), r"config.model.head_widths=\(4096, 0\) must be 1 or more"),
        (dict(dropout=1.0), "config.model.dropout=1.0 must lie in 0..1"),
    ],
)
def test_a_wrong_setting_is_named(changes, match):
    with pytest.raises(UserError, match=match):
        models.build(config(**changes))


def test_pictures_of_which_nothing_would_be_left_are_refused():
    with pytest.raises(UserError, match="data.size_px=16 is too small for this VGG; try 32"):
        jax.eval_shape(models.build(config()).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
