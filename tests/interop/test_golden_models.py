"""Other libraries' tiny models, filled by a hash: same outputs here, and the same bits when written back.

The numbers were made in float64 with timm 1.0.31, torchvision 0.29.2 and transformers 5.23.0.
"""

import foreign_shapes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import hash_weights, wave

from vitjax import trees
from vitjax.errors import UserError
from vitjax.interop import mae as mae_weights
from vitjax.interop import table, timm_vit, torchvision_resnet, torchvision_vgg
from vitjax.losses.reconstruction import masked_reconstruction, normalise_patches
from vitjax.models.classifier import Classifier
from vitjax.models.mae import MAE
from vitjax.models.patches import patchify
from vitjax.models.resnet import ResNet
from vitjax.models.vgg import VGG
from vitjax.models.vit import ViT


def variables_of(flat):
    return trees.unflatten({path: jnp.asarray(x, jnp.float32) for path, x in flat.items()})


def outputs(module, flat, *inputs):
    """What `module` makes of the weights, which must be exactly those that it has."""
    inputs = [jnp.asarray(x, jnp.float32) for x in inputs]
    variables = variables_of(flat)
    wanted = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    assert jax.tree.map(jnp.shape, wanted) == jax.tree.map(jnp.shape, variables)
    with jax.default_matmul_precision("highest"):
        return jax.jit(module.apply)(variables, *inputs)


def assert_same_bits(found, wanted):
    assert sorted(found) == sorted(wanted)
    for name, x in wanted.items():
        assert found[name].dtype == x.dtype, name
        np.testing.assert_array_equal(found[name], x, err_msg=name)


def vit(pool):
    return ViT(width=16, depth=2, heads=2, mlp_dim=64, patch_px=4, class_token=pool == "cls", pool=pool)


@pytest.mark.parametrize(
    "pool, logits",
    [
        ("cls", [2.070980453, 0.561831021, -0.664195393, -0.791169527, 0.277162954]),
        ("gap_norm", [0.505641427, 1.453775255, 0.150930447, -0.993541739, -1.244087810]),
        ("map", [-1.441198106, -1.625992760, 0.062248908, 1.690951458, -0.677999062]),
    ],
)  # fmt: skip
def test_timm_vit_has_the_same_logits(pool, logits):
    weights = hash_weights(foreign_shapes.timm_vit(pool))
    flat = table.read(weights, timm_vit.rows(vit(pool), (4, 4)))
    out = outputs(Classifier(vit(pool), 5), flat, wave(1, (2, 16, 16, 3)))
    np.testing.assert_allclose(out["logits"][0], logits, atol=1e-5)


@pytest.mark.parametrize(
    "pool, first, total",
    [
        ("cls", [0.025832019, 0.147042990, 1.170798831], 465.788736302),
        ("gap_norm", [1.283113388, -0.489577892, 0.658174584], 473.559502472),
        ("map", [0.399119383, -0.692212539, 0.030339331], 430.960789644),
    ],
)
def test_timm_vit_has_the_same_tokens(pool, first, total):
    flat = table.read(hash_weights(foreign_shapes.timm_vit(pool)), timm_vit.rows(vit(pool), (4, 4)))
    backbone = variables_of(flat)["params"]["backbone"]
    encode = jax.jit(lambda p, x: vit(pool).apply({"params": p}, x, method=lambda m, x: m.encode(m.embed(x))))
    tokens = encode(backbone, jnp.asarray(wave(1, (2, 16, 16, 3)), jnp.float32))
    np.testing.assert_allclose(tokens.reshape(-1)[:3], first, atol=1e-5)
    assert jnp.abs(tokens).sum() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("pool", ["cls", "gap_norm", "map"])
def test_timm_vit_round_trip_keeps_every_bit(pool):
    weights, rows = hash_weights(foreign_shapes.timm_vit(pool)), timm_vit.rows(vit(pool), (4, 4))
    assert_same_bits(table.write(table.read(weights, rows), rows), weights)


@pytest.mark.parametrize(
    "bottleneck, logits",
    [
        (False, [-0.215882265, 0.109922832, -0.281970457, 0.377108784, -0.227078932]),
        (True, [0.544652278, -0.150295342, 0.181955740, -0.156878443, -0.208265209]),
    ],
)  # fmt: skip
def test_torchvision_resnet_has_the_same_logits(bottleneck, logits):
    weights = hash_weights(foreign_shapes.torchvision_resnet(bottleneck))
    rows = torchvision_resnet.stages((1, 1, 1, 1), bottleneck)
    model = Classifier(ResNet(blocks=(1, 1, 1, 1), bottleneck=bottleneck), 5)
    out = outputs(model, table.read(weights, rows), wave(1, (1, 64, 64, 3)))
    np.testing.assert_allclose(out["logits"][0], logits, atol=1e-5)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_torchvision_resnet_round_trip_keeps_every_bit(bottleneck):
    weights = hash_weights(foreign_shapes.torchvision_resnet(bottleneck))
    rows = torchvision_resnet.stages((1, 1, 1, 1), bottleneck)
    assert_same_bits(table.write(table.read(weights, rows), rows), weights)


def vgg():
    stages = ((8,), (16, 16), (8,))
    return VGG(stages, head_widths=(10,)), torchvision_vgg.layers(
        stages, True, ("classifier.0", "classifier.2")
    )


def test_torchvision_vgg_has_the_same_logits():
    backbone, rows = vgg()
    out = outputs(
        Classifier(backbone, 5),
        table.read(hash_weights(foreign_shapes.vgg_bn()), rows),
        wave(1, (1, 56, 56, 3)),
    )
    wanted = [0.04299299, 0.90387808, -0.3301296, -0.76982737, -0.52434271]
    np.testing.assert_allclose(out["logits"][0], wanted, atol=1e-5)


def test_torchvision_vgg_round_trip_keeps_every_bit():
    weights, (_, rows) = hash_weights(foreign_shapes.vgg_bn()), vgg()
    assert_same_bits(table.write(table.read(weights, rows), rows), weights)


def mae(posemb="learned"):
    # The golden weights replace the positions too, which are fixed in every published model.
    backbone = ViT(width=16, depth=2, heads=2, mlp_dim=32, patch_px=4, posemb=posemb, norm_eps=1e-12)
    return MAE(backbone, 0.75, 16, 1, 2, decoder_mlp_ratio=2, decoder_posemb=posemb)


def test_hf_mae_has_the_same_prediction_mask_and_loss():
    flat = mae_weights.read(hash_weights(foreign_shapes.hf_mae()), mae())
    images, noise = wave(1, (2, 16, 16, 3)), (wave(1, (2, 16)) + 1) / 2
    out = outputs(mae(), flat, images, noise)
    first = [0.940622918, 0.090992736, 0.338324057, 1.791490424]
    np.testing.assert_allclose(out["pred"].reshape(-1)[:4], first, atol=1e-5)
    assert jnp.abs(out["pred"]).sum() == pytest.approx(1129.754223786, rel=1e-5)
    np.testing.assert_array_equal(out["mask"][0, :6], [1, 1, 1, 0, 0, 1])
    target = normalise_patches(patchify(jnp.asarray(images, jnp.float32), 4))
    loss = masked_reconstruction(out["pred"], target, out["mask"])
    assert loss == pytest.approx(1.838211894, rel=1e-5)


def renamed(weights, layout):
    if layout == "hf5":
        return {foreign_shapes.hf5_name(k): v for k, v in weights.items()}
    if layout == "hf5 file":
        return {
            k.replace("decoder.decoder_layers.", "decoder.decoder_encoder.layer."): v
            for k, v in weights.items()
        }
    return weights


@pytest.mark.parametrize("layout", ["hf5", "hf5 file"])
def test_names_of_transformers_5_mean_the_same(layout):
    weights = hash_weights(foreign_shapes.hf_mae())
    assert_same_bits(mae_weights.read(renamed(weights, layout), mae()), mae_weights.read(weights, mae()))


@pytest.mark.parametrize("layout", ["hf4", "hf5", "facebook"])
def test_mae_round_trip_keeps_every_bit(layout):
    shapes = foreign_shapes.facebook_mae() if layout == "facebook" else foreign_shapes.hf_mae()
    weights = renamed(hash_weights(shapes), layout)
    flat = mae_weights.read(weights, mae())
    assert_same_bits(table.write(flat, mae_weights.rows(mae(), (4, 4), layout)), weights)


def test_fixed_positions_are_written_and_other_ones_refused():
    fixed = mae("sincos2d")
    weights = hash_weights(foreign_shapes.hf_mae())
    with pytest.raises(UserError, match="position_embeddings.*posemb='learned'"):
        mae_weights.read(weights, fixed)
    rows = mae_weights.rows(fixed, (4, 4), "hf4")
    learned = mae_weights.read(weights, mae())
    flat = {path: x for path, x in learned.items() if "position" not in path}
    written = table.write(flat, rows)
    assert written["decoder.decoder_pos_embed"].shape == (1, 17, 16)
    assert not written["vit.embeddings.position_embeddings"][0, 0].any()
    assert_same_bits(mae_weights.read(written, fixed), flat)


def test_weights_that_are_no_mae_are_refused():
    with pytest.raises(UserError, match="no masked autoencoder: none of vit.encoder.layer.0"):
        mae_weights.read({"conv1.weight": np.zeros(1)}, mae())
