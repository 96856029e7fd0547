import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vitjax import models, trees
from vitjax.errors import UserError
from vitjax.models import vit
from vitjax.models.classifier import Classifier


def config(**changes):
    c = ConfigDict(
        dict(
            name="vit",
            width=16,
            depth=3,
            heads=2,
            mlp_dim=32,
            patch_px=4,
            class_token=True,
            pool="cls",
            posemb="learned",
            norm_eps=1e-6,
            activation="gelu",
            drop_path=0.0,
            scan=False,
            remat=False,
            attention="xla",
        )
    )
    c.update(changes)
    return c


def count(module, size_px):
    shapes = jax.eval_shape(
        module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size_px, size_px, 3), "float32")
    )
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def pictures(batch=2, size_px=16):
    return jax.random.normal(jax.random.key(7), (batch, size_px, size_px, 3))


# Counts of timm's models.
@pytest.mark.parametrize(
    "variant, patch_px, size_px, classes, wanted",
    [
        ("Ti", 16, 224, 1000, 5_717_416),
        ("S", 16, 224, 1000, 22_050_664),
        ("B", 16, 224, 1000, 86_567_656),
        ("B", 32, 224, 1000, 88_224_232),
        ("L", 16, 224, 1000, 304_326_632),
        ("H", 14, 224, 1000, 632_045_800),
        ("B", 16, 224, 0, 85_798_656),
        ("Ti", 4, 32, 10, 5_362_762),
        ("S", 4, 32, 10, 21_342_346),
    ],
)
def test_parameter_count_is_the_published_one(variant, patch_px, size_px, classes, wanted):
    backbone = models.build(config(patch_px=patch_px, scan=True, **vit.VARIANTS[variant]))
    assert count(Classifier(backbone, classes) if classes else backbone, size_px) == wanted


@pytest.mark.parametrize("pool, classes, wanted", [("gap", 1000, 86_566_120), ("map", 0, 92_884_224)])
def test_parameter_count_without_class_token_is_the_published_one(pool, classes, wanted):
    backbone = models.build(config(patch_px=16, class_token=False, pool=pool, scan=True, **vit.VARIANTS["B"]))
    assert count(Classifier(backbone, classes) if classes else backbone, 224) == wanted


def test_fixed_positions_are_no_parameters():
    assert count(models.build(config()), 16) - count(models.build(config(posemb="sincos2d")), 16) == 17 * 16


@pytest.mark.parametrize(
    "pool, class_token", [("cls", True), ("gap", True), ("gap_norm", False), ("map", False)]
)
def test_features_are_float32_and_tokens_are_those_of_the_patches(pool, class_token):
    module = models.build(config(pool=pool, class_token=class_token), jnp.bfloat16)
    variables = jax.jit(module.init)(jax.random.key(0), pictures())
    out = jax.jit(module.apply)(variables, pictures())
    assert out["features"].shape == (2, 16) and out["features"].dtype == jnp.float32
    assert out["tokens"].shape == (2, 16, 16)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_gap_is_the_mean_of_the_patch_tokens_without_the_class_token():
    module = models.build(config(pool="gap"))
    out, _ = jax.jit(module.init_with_output)(jax.random.key(0), pictures())
    np.testing.assert_allclose(out["features"], out["tokens"].mean(axis=1), atol=1e-6)


def test_gap_std_is_mean_and_standard_deviation_of_the_patch_tokens():
    module = models.build(config(pool="gap_std"))
    out, _ = jax.jit(module.init_with_output)(jax.random.key(0), pictures())
    tokens = np.asarray(out["tokens"])
    np.testing.assert_allclose(
        out["features"], np.concatenate([tokens.mean(1), tokens.std(1)], -1), atol=1e-5
    )


def test_gap_std_of_equal_tokens_has_a_gradient():
    module = models.build(config(pool="gap_std", posemb="sincos2d"))
    x = jnp.zeros((1, 5, 16))
    gradient = jax.grad(lambda x: module._pool(x, x).sum())(x)
    assert np.isfinite(gradient).all()


def loss_and_gradient(module, params):
    def loss(params):
        keys = {"dropout": jax.random.key(3)}
        return jnp.square(module.apply({"params": params}, pictures(), True, rngs=keys)["features"] - 1).sum()

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("scan, remat", [(True, False), (False, True), (True, True)])
def test_scanned_and_rematerialised_blocks_compute_the_same(scan, remat):
    plain, other = (
        models.build(config(drop_path=0.5)),
        models.build(config(drop_path=0.5, scan=scan, remat=remat)),
    )
    flat = trees.flatten(jax.jit(plain.init)(jax.random.key(0), pictures())["params"])
    wanted = trees.flatten(jax.eval_shape(other.init, jax.random.key(0), pictures())["params"])
    loss, gradient = loss_and_gradient(plain, trees.unflatten(flat))
    other_loss, other_gradient = loss_and_gradient(other, trees.unflatten(trees.stack(flat, wanted)))
    assert other_loss == pytest.approx(float(loss), rel=1e-5)
    other_gradient = trees.unstack(trees.flatten(other_gradient))
    for path, leaf in trees.flatten(gradient).items():
        np.testing.assert_allclose(other_gradient[path], leaf, atol=2e-5, rtol=1e-4, err_msg=path)


def test_scanned_blocks_start_different_from_each_other():
    params = jax.jit(models.build(config(scan=True)).init)(jax.random.key(0), pictures())["params"]
    kernel = params["blocks"]["mlp"]["fc1"]["kernel"]
    assert kernel.shape == (3, 16, 32) and not np.allclose(kernel[0], kernel[1])


def test_drop_path_spares_the_first_block_and_keeps_the_mean():
    gates = vit.Stack(depth=3, heads=1, mlp_dim=4, drop_path=0.5).apply(
        {}, 4000, method=vit.Stack._gates, rngs={"dropout": jax.random.key(0)}
    )
    assert gates.shape == (3, 2, 4000)
    assert (gates[0] == 1).all()
    assert set(np.unique(gates[2])) == {0.0, 2.0}
    np.testing.assert_allclose(gates.mean(axis=(1, 2)), 1, atol=0.05)


def test_drop_path_does_nothing_outside_training():
    module = models.build(config(drop_path=0.9))
    variables = jax.jit(module.init)(jax.random.key(0), pictures())
    plain = jax.jit(models.build(config()).apply)(variables, pictures())["features"]
    np.testing.assert_array_equal(jax.jit(module.apply)(variables, pictures())["features"], plain)


def test_attention_is_that_of_jax():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 5, 12))
    heads = [x.reshape(2, 5, 3, 4) for x in (q, k, v)]
    wanted = jax.jit(jax.nn.dot_product_attention)(*heads).reshape(2, 5, 12)
    ours = jax.jit(vit.attend, static_argnums=3)(q, k, v, 3)
    np.testing.assert_allclose(ours, wanted, atol=1e-6)


def test_causal_attention_is_that_of_jax():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 5, 12))
    heads = [x.reshape(2, 5, 3, 4) for x in (q, k, v)]
    wanted = jax.nn.dot_product_attention(*heads, is_causal=True).reshape(2, 5, 12)
    np.testing.assert_allclose(vit.attend(q, k, v, 3, causal=True), wanted, atol=1e-6)


def test_gelu_is_the_exact_one():
    x = jnp.linspace(-6, 6, 101)
    np.testing.assert_allclose(vit.ACTIVATIONS["gelu"](x), jax.nn.gelu(x, approximate=False), atol=1e-6)


def test_xavier_bound_is_that_of_the_fused_qkv_matrix():
    module = models.build(config(width=64, depth=1))
    params = jax.jit(module.init)(jax.random.key(0), pictures())["params"]
    kernel = np.abs(params["block_00"]["attention"]["qkv"]["kernel"])
    bound = (6 / (64 + 3 * 64)) ** 0.5
    assert 0.99 * bound < kernel.max() <= bound


@pytest.mark.parametrize(
    "changes, match",
    [
        (dict(pool="mean"), r"config.model.pool='mean' is not known; choose from cls, gap, gap_norm, gap_std, map"),
        (dict(posemb="sine"), "config.model.posemb='sine'"),
        (dict(activation="relu"), "config.model.activation='relu'"),
        (dict(heads=3), "config.model.heads=3 must divide config.model.width=16"),
        (dict(attention="cudnn"), "config.model.attention='cudnn' computes in bfloat16 only"),
        (dict(class_token=False), "needs config.model.class_token=True"),
        (dict(width=18, posemb="sincos2d"), "must be a multiple of 4"),
    ],
)
def test_a_wrong_setting_is_named(changes, match):
    with pytest.raises(UserError, match=match):
        models.build(config(**changes))
