"""The rates of single parameters: by depth as published, by path, with and without a schedule."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descent import config_of, descend, vit_params

from vitjax import optim, trees
from vitjax.errors import UserError
from vitjax.rates import layer_scales

DECAY_075 = [
    0.023757264018058777, 0.03167635202407837, 0.04223513603210449, 0.056313514709472656,
    0.07508468627929688, 0.1001129150390625, 0.13348388671875, 0.177978515625, 0.2373046875,
    0.31640625, 0.421875, 0.5625, 0.75, 1.0,
]  # fmt: skip


@pytest.mark.parametrize("scan", [False, True])
def test_layer_decay_of_a_vit_equals_beit_and_mae(scan):
    head = {"kernel": jax.ShapeDtypeStruct((8, 3), jnp.float32)}
    shapes = {"backbone": vit_params(12, scan, pool="map"), "decoder": vit_params(2, scan), "head": head}
    scales = jax.tree.map(
        lambda x, s: np.broadcast_to(s, x.shape) if np.ndim(s) else np.full(x.shape, s),
        shapes,
        layer_scales(shapes, 0.75),
    )
    flat = {path: float(x.ravel()[0]) for path, x in trees.unstack(trees.flatten(scales)).items()}
    for path, scale in flat.items():
        block = re.match(r"backbone/block_(\d+)/", path)
        embedding = re.match(r"backbone/(patch/|position|cls)", path)
        layer = int(block.group(1)) + 1 if block else 0 if embedding else 13
        assert scale == pytest.approx(DECAY_075[layer]), path
    assert flat["backbone/norm/scale"] == flat["decoder/block_00/mlp/fc1/kernel"] == 1.0


def test_layer_decay_without_blocks_is_refused():
    with pytest.raises(UserError, match=r"config\.optim\.layer_decay=0\.75 needs a backbone made of blocks"):
        layer_scales({"backbone": {"stage1_0": {"kernel": np.ones((2, 2))}}}, 0.75)


PARAMS = {
    "backbone": {"conv": {"kernel": np.ones((2, 2), np.float32)}, "bn": {"scale": np.ones(2, np.float32)}},
    "predictor": {"fc": {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}},
}


def moved(steps, **settings):
    """path -> how far each of `steps` goes along a gradient of ones."""
    run = SimpleNamespace(total_steps=steps, steps_per_epoch=1.0, batch_size=512)
    tx, rate = optim.make(config_of("sgd", momentum=0.0, schedule="cosine", **settings), run)
    ones = jax.tree.map(np.ones_like, PARAMS)
    path = [PARAMS, *descend(tx, PARAMS, [ones] * steps)]
    flat = [{name: float(x.ravel()[0]) for name, x in trees.flatten(p).items()} for p in path]
    return {name: [a[name] - b[name] for a, b in zip(flat[:-1], flat[1:])] for name in flat[0]}, [
        float(rate(step)) for step in range(steps)
    ]


def test_biases_and_norms_have_their_own_rate_in_barlow_twins():
    """0.0048 where weights have 0.2, both by the same schedule and scaled with the batch."""
    steps, rates = moved(
        4, base_lr=0.2, base_batch=256, warmup_steps=1, rate_scales=(("(bias|scale)$", 0.024),)
    )
    assert max(rates) == pytest.approx(0.4)
    for name, got in steps.items():
        factor = 0.0048 / 0.2 if name.endswith(("bias", "scale")) else 1.0
        np.testing.assert_allclose(got, np.multiply(factor, rates), atol=1e-6, err_msg=name)


def test_of_several_factors_the_first_that_a_path_matches_counts():
    steps, rates = moved(2, base_lr=0.1, rate_scales=(("predictor/.*bias", 3.0), ("predictor", 2.0)))
    got = {name: round(step[0] / rates[0], 4) for name, step in steps.items()}
    assert list(got.values()) == [1.0, 1.0, 3.0, 2.0] and list(got)[2] == "predictor/fc/bias"


def test_the_predictor_of_simsiam_keeps_the_peak_rate():
    steps, rates = moved(5, base_lr=0.05, base_batch=256, warmup_steps=2, constant_rate=("^predictor/",))
    assert rates[0] == 0 and rates[2] == pytest.approx(0.1) and rates[4] < 0.05
    for name, got in steps.items():
        wanted = [0.1] * 5 if name.startswith("predictor") else rates
        np.testing.assert_allclose(got, wanted, atol=1e-6, err_msg=name)


def test_a_constant_rate_has_a_factor_too():
    steps, _ = moved(3, base_lr=0.1, constant_rate=("predictor",), rate_scales=(("bias", 0.5),))
    np.testing.assert_allclose(steps["predictor/fc/bias"], 0.05, atol=1e-6)
