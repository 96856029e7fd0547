"""The forms of LARS, told apart by published numbers."""

import jax.numpy as jnp
import numpy as np
import pytest
from descent import G1, G2, RUN, W, config_of, descend, sines

from vitjax import optim

LARS_ROWS = {
    # form, whether the rate falls from 0.2 to 0.1 after the first step -> the first row after the second
    ("simclr", False): [0.8419199072051126, 0.9096505209315666, 0.1410526407816473, -0.7572283868051216],
    ("simclr", True): [0.841889229053038, 0.909553107001208, 0.1409780529915288, -0.7572115727849602],
    ("byol", False): [0.8419199072051126, 0.9096505209315666, 0.1410526407816473, -0.7572283868051216],
    ("byol", True): [0.8417974370836274, 0.9095156228905104, 0.1410293394580528, -0.7571186682820171],
}


@pytest.mark.parametrize("form, falls", LARS_ROWS)
def test_lars_equals_the_published_forms(form, falls, monkeypatch):
    if falls:
        monkeypatch.setattr(optim, "_schedule", lambda *_: lambda step: jnp.where(step < 1, 0.2, 0.1))
    tx, _ = optim.make(config_of("lars", base_lr=0.2, weight_decay=1e-4, form=form), RUN)
    bias, bias_grad = sines(2, (4,)), 0.1 * sines(5, (4,))
    one, two = descend(tx, {"w": W, "b": bias}, [{"w": G1, "b": bias_grad}, {"w": G2, "b": bias_grad}])
    row = [0.8416749669621423, 0.9093807248494541, 0.14100603813425833, -0.7570089497589128]
    np.testing.assert_allclose(one["w"][0], row, atol=1e-6)
    np.testing.assert_allclose(two["w"][0], LARS_ROWS[form, falls], atol=1e-6)
    # Neither decayed nor adapted.
    row = [0.9284759123189444, 0.14670831802384574, -0.769942227282304, -0.9787114395956061]
    np.testing.assert_allclose(one["b"], row, atol=1e-6)


def test_lars_moves_a_weight_that_is_zero():
    """Zero-initialised gammas and heads would stay where they are if their trust ratio were 0."""
    tx, _ = optim.make(config_of("lars", base_lr=1.0), RUN)
    (new,) = descend(tx, {"w": np.zeros((3, 4), np.float32)}, [{"w": G1}])
    np.testing.assert_allclose(new["w"], -G1)


def test_larc_equals_swav():
    tx, _ = optim.make(config_of("lars", base_lr=0.2, weight_decay=1e-4, form="larc"), RUN)
    one, two = descend(tx, {"w": W}, [{"w": G1}, {"w": G2}])
    row = [0.8416745972575206, 0.909380573877108, 0.14100624469746673, -0.7570085755734112]
    np.testing.assert_allclose(one["w"][0], row, atol=1e-6)
    row = [0.4121830188726562, -0.5443753561013894, -1.0004375391913969, -0.536702062502929]
    np.testing.assert_allclose(two["w"][2], row, atol=1e-6)


def test_solo_learns_ratio_is_at_most_one():
    settings = dict(base_lr=0.2, weight_decay=1e-4, trust_coefficient=0.02, form="solo")
    tx, _ = optim.make(config_of("lars", **settings), RUN)
    (one,) = descend(tx, {"w": W}, [{"w": G1}])
    row = [0.8612147878700576, 0.9173599937836066, 0.13008865203487222, -0.7767855964601674]
    np.testing.assert_allclose(one["w"][0], row, atol=1e-6)
    np.testing.assert_allclose(one["w"], W - 0.2 * (G1 + 1e-4 * W), atol=1e-6)  # SGD's step


def by_hand(w, grads, rates, decay, trust, bounded):
    """The published rule, in float64."""
    w, velocity = w.astype(np.float64), 0.0
    for g, rate in zip(grads, rates):
        norm_w, norm_g = np.linalg.norm(w), np.linalg.norm(g)
        ratio = 1.0
        if norm_w > 0 and norm_g > 0:
            ratio = trust * norm_w / (norm_g + decay * norm_w + 1e-8)
            ratio = min(ratio / rate, 1.0) if bounded else ratio
            g = g + decay * w
        velocity = 0.9 * velocity + ratio * g
        w = w - rate * velocity
    return w


# The trust coefficient bounds the first step and not the second, in solo-learn's form: 0.21 and 0.02 over the rate.
@pytest.mark.parametrize("form, trust", [("larc", 0.001), ("solo", 0.02), ("solo", 0.002)])
def test_the_rate_stands_outside_of_the_velocity_in_larc_and_solo(form, trust, monkeypatch):
    monkeypatch.setattr(optim, "_schedule", lambda *_: lambda step: jnp.where(step < 1, 0.1, 0.3))
    tx, _ = optim.make(config_of("lars", weight_decay=0.3, trust_coefficient=trust, form=form), RUN)
    params = {"w": W, "b": sines(2, (4,)), "zero": np.zeros((3, 4), np.float32)}
    grads = [{"w": g, "b": 0.3 * g[0], "zero": g} for g in (G1, G2)]
    got = descend(tx, params, grads)[-1]
    for name in params:
        if name == "b" and form == "solo":  # neither decayed nor adapted
            wanted = params["b"] - 0.1 * grads[0]["b"] - 0.3 * (0.9 * grads[0]["b"] + grads[1]["b"])
        else:
            path = [g[name] for g in grads]
            wanted = by_hand(params[name], path, (0.1, 0.3), 0.3, trust, bounded=form == "solo")
        np.testing.assert_allclose(got[name], wanted, atol=1e-6, err_msg=name)


def test_solo_learns_bound_is_the_rate_of_the_parameter_itself():
    """A rate scaled to a tenth allows for ten times the ratio."""
    settings = dict(base_lr=0.3, weight_decay=0.01, trust_coefficient=0.01, form="solo")
    tx, _ = optim.make(config_of("lars", **settings, rate_scales=(("slow", 0.1),)), RUN)
    (got,) = descend(tx, {"fast": W, "slow": W}, [{"fast": G1, "slow": G1}])
    for name, rate in (("fast", 0.3), ("slow", 0.03)):
        wanted = by_hand(W, [G1], [rate], 0.01, 0.01, bounded=True)
        np.testing.assert_allclose(got[name], wanted, atol=1e-6)
    ratio = 0.01 * np.linalg.norm(W) / (np.linalg.norm(G1) + 0.01 * np.linalg.norm(W))
    assert 0.03 < ratio < 0.3, "both would be bounded, or neither"


def test_without_a_gradient_larc_does_not_decay():
    tx, _ = optim.make(config_of("lars", weight_decay=0.5, form="larc"), RUN)
    (new,) = descend(tx, {"w": W}, [{"w": np.zeros_like(W)}])
    np.testing.assert_array_equal(new["w"], W)
