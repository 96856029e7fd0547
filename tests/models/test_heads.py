import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import models, published_heads, trees
from vitjax.config import Tracked, dino_head, mlp_head
from vitjax.errors import UserError
from vitjax.models import heads


def features(width=6, batch=5):
    return jax.random.normal(jax.random.key(1), (batch, width)) + 0.5


def shapes(module, width):
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((2, width), jnp.float32))


def count(module, width):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(module, width)["params"]))


# Counts of the original modules in PyTorch, with batch norm's scale and mean as parameters.
@pytest.mark.parametrize(
    "settings, width, wanted",
    [
        (published_heads.simclr_projector(), 2048, 2048 * 2048 + 2 * 2048 + 2048 * 128 + 128),
        (published_heads.simclr_v2_projector(), 2048, 2 * 2048 * 2048 + 4 * 2048 + 2048 * 128 + 128),
        (published_heads.byol_projector(), 2048, 9_449_472),
        (published_heads.byol_predictor(), 256, 2_109_440),
        (published_heads.swav_projector(), 2048, 4_846_720 - 128 * 3000),
        (published_heads.simsiam_projector(), 2048, 3 * 2048 * 2048 + 4 * 2048),
        (published_heads.simsiam_predictor(), 2048, 2048 * 512 + 2 * 512 + 512 * 2048 + 2048),
        (published_heads.moco_v3_projector(), 768, 20_987_904),
        (published_heads.moco_v3_predictor(), 256, 2_105_344),
        (published_heads.moco_v3_resnet_projector(), 2048, 2048 * 4096 + 2 * 4096 + 4096 * 256),
        (published_heads.moco_v3_resnet_predictor(), 256, 2_105_344),
        (published_heads.dino_projector(norm_last_layer=False), 384, 22_352_128),
        (published_heads.dino_projector(), 384, 22_352_128 - 65_536),  # gains of one are constants here
        (published_heads.barlow_projector(), 2048, 151_027_712),
        (published_heads.vicreg_projector(), 2048, 151_044_096),
        (published_heads.cifar_simclr_projector(), 512, 513 * 2048 + 2049 * 256),
        (published_heads.cifar_byol_projector(), 512, 513 * 4096 + 2 * 4096 + 4097 * 256),
        (published_heads.cifar_byol_predictor(), 256, 257 * 4096 + 2 * 4096 + 4097 * 256),
        (published_heads.cifar_swav_projector(), 512, 513 * 2048 + 2 * 2048 + 2049 * 128),
        (published_heads.cifar_barlow_projector(), 512, 513 * 2048 + 2 * 2049 * 2048 + 4 * 2048),
        (published_heads.cifar_vicreg_projector(), 512, 513 * 2048 + 2 * 2049 * 2048 + 4 * 2048),
        (published_heads.cifar_dino_projector(), 512, 513 * 2048 + 2049 * 2048 + 2049 * 256 + 256 * 4096),
    ],
)
def test_parameter_count_is_the_published_one(settings, width, wanted):
    assert count(heads.make(settings), width) == wanted


def test_swavs_head_and_prototypes_are_the_published_ones():
    projector = count(heads.make(published_heads.swav_projector()), 2048)
    assert projector + count(heads.Prototypes(3000), 128) == 4_846_720


def torch_mlp(params, x, hidden_norm, out_norm):
    """The same head in numpy, with the statistics of the batch."""
    depth = len([name for name in params if name.startswith("fc")])
    for i in range(1, depth + 1):
        linear, norm = params[f"fc{i}"], params.get(f"norm{i}", {})
        x = x @ linear["kernel"] + linear.get("bias", 0)
        if out_norm if i == depth else hidden_norm:
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * norm.get("scale", 1) + norm.get("bias", 0)
        x = x if i == depth else np.maximum(x, 0)
    return x


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(hidden_bias=True, out_bias=True, hidden_norm=False),
        dict(out_norm="affine"),
        dict(out_norm="no_centre", widths=(7, 8, 4)),
        dict(out_norm="no_affine"),
    ],
)
def test_an_mlp_is_linear_maps_norms_and_relus(changes):
    settings = mlp_head(**dict(widths=(8, 4)) | changes)
    module = heads.make(settings)
    variables = jax.jit(module.init)(jax.random.key(0), features())
    drawn = [
        jax.random.normal(jax.random.key(i), x.shape)
        for i, x in enumerate(jax.tree.leaves(variables["params"]))
    ]
    params = jax.tree.unflatten(jax.tree.structure(variables["params"]), drawn)
    apply = jax.jit(
        lambda p: module.apply({**variables, "params": p}, features(), True, mutable=["batch_stats"])[0]
    )
    wanted = torch_mlp(
        jax.tree.map(np.asarray, params),
        np.asarray(features()),
        settings.hidden_norm,
        settings.out_norm != "none",
    )
    np.testing.assert_allclose(apply(params), wanted, atol=2e-4)


@pytest.mark.parametrize(
    "out_norm, wanted",
    [
        ("none", set()),
        ("affine", {"norm2/scale", "norm2/bias"}),
        ("no_centre", {"norm2/scale"}),
        ("no_affine", set()),
    ],
)
def test_the_last_norm_learns_what_its_name_says(out_norm, wanted):
    found = trees.flatten(shapes(heads.make(mlp_head(widths=(8, 4), out_norm=out_norm)), 6)["params"])
    assert {path for path in found if path.startswith("norm2")} == wanted


def test_training_moves_the_statistics_and_evaluation_uses_them():
    module = heads.make(mlp_head(widths=(8, 4), out_norm="no_affine"))
    variables = jax.jit(module.init)(jax.random.key(0), features())
    apply = jax.jit(
        lambda v, train: module.apply(v, features(), train, mutable=["batch_stats"]), static_argnums=1
    )
    out, new = apply(variables, True)
    np.testing.assert_allclose(out.mean(0), np.zeros(4), atol=1e-5)
    assert not np.allclose(new["batch_stats"]["norm2"]["mean"], variables["batch_stats"]["norm2"]["mean"])
    assert not np.allclose(apply(variables, False)[0], out)


@pytest.mark.parametrize(
    "settings, coupled",
    [
        (published_heads.cifar_simclr_projector(), False),
        (mlp_head(widths=(4,)), False),
        (mlp_head(widths=(4,), out_norm="affine"), True),
        (published_heads.byol_projector(), True),
        (published_heads.dino_projector(), False),
    ],
)
def test_pictures_are_coupled_by_batch_norm_only(settings, coupled):
    module = heads.make(settings)
    assert models.couples_examples(module) == coupled
    assert ("batch_stats" in shapes(module, 6)) == coupled


@pytest.mark.parametrize("settings", [mlp_head(widths=(8, 4)), dino_head(widths=(8, 4), prototypes=7)])
def test_embeddings_parameters_and_statistics_are_float32_whatever_the_compute_type(settings):
    module = heads.make(settings, jnp.bfloat16)
    out, variables = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x, True), features())
    assert {leaf.dtype for leaf in jax.tree.leaves((out, variables))} == {jnp.dtype("float32")}


def test_kernels_start_as_published():
    def kernel(settings):
        return np.asarray(
            heads.make(settings).init(jax.random.key(0), features(400))["params"]["fc1"]["kernel"]
        )

    torch, haiku, simclr = (
        kernel(mlp_head(widths=(300, 4), hidden_norm=False, kernel_init=init))
        for init in ("fan_in_uniform", "fan_in_normal", "normal")
    )
    assert 0.99 / 20 < np.abs(torch).max() <= 1 / 20
    assert 1.9 / 20 < np.abs(haiku).max() <= 2 / 20 and haiku.std() == pytest.approx(0.88 / 20, rel=0.02)
    assert simclr.std() == pytest.approx(0.01, rel=0.02)


def test_scores_are_cosines_with_prototypes_of_length_one():
    module = heads.Prototypes(7)
    x = features().astype(jnp.bfloat16)
    scores, variables = jax.jit(module.init_with_output)(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["kernel"])
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), np.ones(7), atol=1e-6)
    x = np.asarray(x, np.float32)
    np.testing.assert_allclose(scores, x / np.linalg.norm(x, axis=1, keepdims=True) @ kernel, atol=1e-5)


def test_unit_prototypes_keep_their_directions():
    kernel = features(7)
    found = heads.unit_prototypes({"kernel": kernel})["kernel"]
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), np.ones(7), atol=1e-6)
    np.testing.assert_allclose(found * np.linalg.norm(kernel, axis=0), kernel, atol=1e-5)


@pytest.mark.parametrize("learned", [False, True])
def test_dinos_logits_are_cosines_times_gains(learned):
    module = heads.make(dino_head(widths=(8, 8, 4), prototypes=7, norm_last_layer=not learned))
    variables = jax.jit(module.init)(jax.random.key(0), features())
    last = variables["params"]["last"]
    assert ("gain" in last) == learned
    if learned:
        last["gain"] = jnp.arange(7.0).reshape(1, 7)
    embeddings = module.mlp.apply({"params": variables["params"]["mlp"]}, features())
    cosines = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = cosines @ (last["kernel"] / np.linalg.norm(last["kernel"], axis=0))
    wanted = cosines * last["gain"] if learned else cosines
    np.testing.assert_allclose(jax.jit(module.apply)(variables, features()), wanted, atol=1e-5)


def test_weight_norms_gradient_is_across_the_prototypes():
    module = heads.WeightNormed(7)
    variables = module.init(jax.random.key(0), features())
    gradient = jax.grad(lambda p: jnp.sum(jnp.square(module.apply({"params": p}, features()))))(
        variables["params"]
    )
    along = np.sum(gradient["kernel"] * variables["params"]["kernel"], axis=0)
    assert np.abs(gradient["kernel"]).max() > 0.1
    np.testing.assert_allclose(along, np.zeros(7), atol=1e-4)


def test_every_setting_of_a_head_is_read():
    for settings in (mlp_head(), dino_head()):
        tracked = Tracked(settings)
        heads.make(tracked)
        assert not tracked.unread()


@pytest.mark.parametrize(
    "settings, match",
    [
        (mlp_head(out_norm="batch"), "out_norm='batch' of a head is not known; choose from none, affine"),
        (mlp_head(activation="tanh"), "activation='tanh' of a head is not known; choose from relu, gelu"),
        (mlp_head(kernel_init="zeros"), "init='zeros' of a head is not known"),
        (mlp_head(widths=()), r"widths=\(\) of a head must be the width of each layer"),
        (mlp_head(widths=(4, 0)), r"widths=\(4, 0\) of a head"),
        (dino_head(prototypes=1), "prototypes=1 of a head must be 2 or more"),
    ],
)
def test_a_wrong_setting_is_named(settings, match):
    with pytest.raises(UserError, match=match):
        heads.make(settings)
