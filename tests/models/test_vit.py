import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vitjax import models, trees
from vitjax.errors import UserError
from vitjax.models import vit
from vitjax.models.positions import sincos2d


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
    other_gradient, gradient = trees.unstack(trees.flatten(other_gradient)), trees.flatten(gradient)
    # What is nearly 0 is a difference of what is not, and rounded as that.
    rounding = 1e-5 * max(float(np.abs(leaf).max()) for leaf in gradient.values())
    for path, leaf in gradient.items():
        np.testing.assert_allclose(other_gradient[path], leaf, atol=rounding, rtol=1e-4, err_msg=path)


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


def test_pictures_may_have_another_size_than_it_was_built_for():
    module = models.build(config(depth=1))
    variables = jax.jit(module.init)(jax.random.key(0), pictures())
    out = jax.jit(module.apply)(variables, pictures(size_px=8))
    assert out["tokens"].shape == (2, 4, 16) and np.isfinite(out["features"]).all()


def embed(posemb, images, params=None):
    """Tokens with positions, and the parameters; fresh ones if there are none."""
    module = vit.Embed(width=16, patch_px=4, posemb=posemb, dtype=jnp.float32)
    params = params or module.init(jax.random.key(0), pictures(), None)["params"]
    return module.apply({"params": params}, images, None), params


def test_learned_positions_of_another_grid_are_the_resampled_ones_and_train_the_stored_ones():
    large = pictures(size_px=24)
    tokens, params = embed("learned", large)
    moved, _ = embed("learned", large, dict(params, position=params["position"] + 1))
    # The weights of a cubic kernel sum to one: a shift of all positions is a shift of all tokens.
    np.testing.assert_allclose(moved - tokens, np.ones((2, 36, 16)), atol=1e-5)
    gradient = jax.grad(lambda p: embed("learned", large, p)[0].sum())(params)["position"]
    assert gradient.shape == (1, 16, 16) and np.asarray(gradient).all()


def test_learned_positions_are_built_on_square_pictures_only():
    with pytest.raises(UserError, match="not on 2 x 4 patches; use 'sincos2d'"):
        jax.eval_shape(models.build(config()).init, jax.random.key(0), jnp.zeros((1, 8, 16, 3)))


def test_fixed_positions_are_made_for_the_grid_at_hand_in_the_form_that_was_chosen():
    tokens, params = embed("sincos2d", pictures(size_px=12))
    other, _ = embed("sincos2d_row_first", pictures(size_px=12), params)
    patches = tokens - sincos2d(3, 3, 16)
    np.testing.assert_allclose(other - patches, np.tile(sincos2d(3, 3, 16, row_first=True), (2, 1, 1)), atol=1e-5)
    assert not np.allclose(other, tokens)


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
