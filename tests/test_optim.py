"""Optimisers, schedules and masks against published numbers, and scanned blocks against single ones."""

import math
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from vitjax import models, optim, trees
from vitjax.errors import UserError
from vitjax.objective import Output, Player, from_loss, from_players

RUN = SimpleNamespace(total_steps=1000, steps_per_epoch=25.0, batch_size=256)


def config_of(name="adamw", **settings):
    base = dict(
        name=name, base_lr=1.0, base_batch=0, schedule="constant", warmup_steps=0, warmup_epochs=None,
        end_lr=0.0, weight_decay=0.0, no_decay=(), clip="global", clip_norm=0.0, layer_decay=1.0,
    )  # fmt: skip
    own = {
        "adamw": dict(b1=0.9, b2=0.95, eps=1e-8),
        "lars": dict(momentum=0.9, trust_coefficient=0.001, form="simclr"),
        "sgd": dict(momentum=0.9, nesterov=False),
    }
    return ConfigDict(dict(optim=base | own.get(name, {}) | settings))


def sines(start, shape):
    """sin(start + k): the inputs of the published numbers."""
    return np.sin(start + np.arange(math.prod(shape), dtype=np.float64)).reshape(shape).astype(np.float32)


def descend(tx, params, grads):
    """The parameters after each of `grads`, in one compiled step."""

    @jax.jit
    def step(params, state, grad, number):
        updates, state = tx.update(grad, state, params, step=number)
        return optax.apply_updates(params, updates), state

    state, out = jax.jit(tx.init)(params), []
    for number, grad in enumerate(grads):
        params, state = step(params, state, grad, number)
        out.append(params)
    return out


W, G1, G2 = sines(1, (3, 4)), 0.1 * sines(30, (3, 4)), 0.1 * sines(60, (3, 4))


def test_adamw_equals_torch():
    tx, _ = optim.make(config_of(base_lr=1e-2, weight_decay=0.05), RUN)
    one, two = descend(tx, {"w": W}, [{"w": G1}, {"w": G2}])
    row = [0.8510502483033793, 0.9188427756372526, 0.1310494698493147, -0.7664240930601863]
    np.testing.assert_allclose(one["w"][0], row, atol=1e-6)
    row = [0.40662962542603137, -0.5593171768420165, -1.018988782483066, -0.5322069199635444]
    np.testing.assert_allclose(two["w"][2], row, atol=1e-6)


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


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_the_rule_of_torch(nesterov):
    tx, _ = optim.make(config_of("sgd", base_lr=0.1, weight_decay=0.01, nesterov=nesterov), RUN)
    got = descend(tx, {"w": W}, [{"w": G1}, {"w": G2}])[-1]["w"]
    w, velocity = W, 0.0
    for g in (G1, G2):
        g = g + 0.01 * w
        velocity = 0.9 * velocity + g
        w = w - 0.1 * (g + 0.9 * velocity if nesterov else velocity)
    np.testing.assert_allclose(got, w, rtol=1e-6)


def rates(steps, total=1000, steps_per_epoch=25.0, **settings):
    run = SimpleNamespace(total_steps=total, steps_per_epoch=steps_per_epoch, batch_size=256)
    _, rate = optim.make(config_of(**settings), run)
    return np.array([float(rate(step)) for step in steps])


def test_cosine_equals_big_vision():
    got = rates([0, 1, 50, 100, 550, 999, 1000], schedule="cosine", warmup_steps=100)
    np.testing.assert_allclose(got, [0, 0.01, 0.5, 1, 0.5, 3.046171104803541e-06, 0], atol=1e-6)


def test_rsqrt_equals_big_vision():
    settings = dict(schedule="rsqrt", warmup_steps=100, timescale_steps=10_000, cooldown_steps=200)
    got = rates([0, 50, 100, 500, 850, 1000], **settings)
    np.testing.assert_allclose(got, [0, 0.5, 1, 0.9805806756909201, 0.7233642332556183, 0], atol=1e-6)


def test_warmup_in_epochs_equals_mae():
    """Fractional epochs: half an epoch into a warm-up of 40."""
    settings = dict(schedule="cosine", warmup_steps=None, warmup_epochs=40.0, base_lr=1.5e-4)
    got = rates([0, 5, 200, 400, 4200], total=8000, steps_per_epoch=10.0, **settings)
    np.testing.assert_allclose(got, [0, 1.875e-6, 7.5e-5, 1.5e-4, 7.5e-5], atol=1e-10)


def test_steps_of_warmup_win_over_epochs_and_neither_is_none():
    assert rates([5], warmup_steps=10, warmup_epochs=4.0)[0] == 0.5
    assert rates([0], warmup_steps=None, warmup_epochs=None)[0] == 1.0


def test_cosine_ends_at_end_lr():
    np.testing.assert_allclose(rates([1000, 1200], schedule="cosine", end_lr=0.1), 0.1, rtol=1e-6)


def test_rate_is_zero_at_step_0_of_a_warmup_and_scaled_with_the_batch():
    config = config_of(base_lr=1.5e-4, base_batch=256, warmup_steps=10)
    run = SimpleNamespace(total_steps=100, steps_per_epoch=25.0, batch_size=4096)
    _, rate = optim.make(config, run)
    assert float(rate(0)) == 0 and float(rate(10)) == pytest.approx(2.4e-3)
    said = optim.describe(config, run)
    assert said == {
        "base_lr": 1.5e-4,
        "peak_lr": pytest.approx(2.4e-3),
        "end_lr": 0.0,
        "warmup_steps": 10,
    }


def test_vectors_and_named_tensors_are_not_decayed():
    params = {
        "kernel": np.ones((2, 3)),
        "bias": np.ones(3),
        "cls": np.ones((1, 1, 3)),
        "table": np.ones((4, 3)),
    }
    config = config_of("sgd", base_lr=1.0, weight_decay=0.5, no_decay=("^cls$", "tab"))
    (new,) = descend(optim.make(config, RUN)[0], params, [jax.tree.map(np.zeros_like, params)])
    assert {name: float(x.ravel()[0]) for name, x in new.items()} == dict(kernel=0.5, bias=1, cls=1, table=1)


DECAY_075 = [
    0.023757264018058777, 0.03167635202407837, 0.04223513603210449, 0.056313514709472656,
    0.07508468627929688, 0.1001129150390625, 0.13348388671875, 0.177978515625, 0.2373046875,
    0.31640625, 0.421875, 0.5625, 0.75, 1.0,
]  # fmt: skip


def vit_params(depth, scan, pool="cls"):
    settings = dict(
        name="vit", width=8, depth=depth, heads=2, mlp_dim=16, patch_px=4, class_token=True, pool=pool,
        posemb="learned", norm_eps=1e-6, activation="gelu", drop_path=0.0, scan=scan, remat=False,
        attention="xla",
    )  # fmt: skip
    model = models.build(ConfigDict(settings))
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]


@pytest.mark.parametrize("scan", [False, True])
def test_layer_decay_of_a_vit_equals_beit_and_mae(scan):
    head = {"kernel": jax.ShapeDtypeStruct((8, 3), jnp.float32)}
    shapes = {"backbone": vit_params(12, scan, pool="map"), "decoder": vit_params(2, scan), "head": head}
    scales = jax.tree.map(
        lambda x, s: np.broadcast_to(s, x.shape) if np.ndim(s) else np.full(x.shape, s),
        shapes,
        optim.layer_scales(shapes, 0.75),
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
        optim.layer_scales({"backbone": {"stage1_0": {"kernel": np.ones((2, 2))}}}, 0.75)


def test_clipping_bounds_the_norm_of_all_or_of_each():
    grads = {"a": np.full((2, 2), 3.0, np.float32), "b": np.full((4,), 0.1, np.float32)}
    params = jax.tree.map(np.zeros_like, grads)
    moved = {}
    for kind in optim.CLIPS:
        config = config_of("sgd", base_lr=1.0, momentum=0.0, clip=kind, clip_norm=1.0)
        (moved[kind],) = descend(optim.make(config, RUN)[0], params, [grads])
    assert float(optax.tree.norm(moved["global"])) == pytest.approx(1.0)
    np.testing.assert_allclose(moved["per_tensor"]["a"], -0.5, rtol=1e-6)
    np.testing.assert_allclose(moved["per_tensor"]["b"], -0.1, rtol=1e-6)


def along_x(tx, rate, game):
    """An objective whose gradient is the batch's x, which its parameters therefore follow."""

    def loss(params, extra, batch, key, step):
        params = params["me"] if game else params
        return sum(jnp.sum(p) for p in jax.tree.leaves(params)) * batch["x"][0], Output(extra, {})

    start = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(3)}
    how = dict(export=lambda state: state.params, predict={})
    if game:
        players = [Player("me", loss, tx)]
        return from_players(init=lambda *_: {"params": {"me": start}}, players=players, **how)
    return from_loss(init=lambda *_: {"params": start}, loss=loss, tx=tx, rate=rate, **how)


@pytest.mark.parametrize("game", [False, True])
@pytest.mark.parametrize("wrap", ["plain", "masked", "partition", "chain"])
def test_after_refused_updates_the_applied_rate_is_that_of_the_step(wrap, game):
    tx, rate = optim.make(config_of("sgd", momentum=0.0, schedule="cosine", warmup_steps=4), RUN)
    if wrap == "masked":
        tx = optax.masked(tx, {"w": True, "b": True})
    elif wrap == "partition":
        tx = optax.partition({"one": tx, "two": optim.make(config_of("sgd", momentum=0.0, schedule="cosine",
            warmup_steps=4), RUN)[0]}, {"w": "one", "b": "two"})  # fmt: skip
    elif wrap == "chain":
        tx = optax.chain(optax.clip(10.0), tx)
    objective = along_x(tx, rate, game)
    state = jax.jit(objective.init)(jax.random.key(0), {})
    update = jax.jit(objective.update)
    for step in range(7):
        x = np.nan if step in (1, 2, 4) else 1.0
        before = jax.device_get(trees.flatten(state.params))
        state, metrics = update(state, {"x": jnp.full(2, x), "row": jnp.arange(2)}, jax.random.key(0))
        applied = 0.0 if np.isnan(x) else float(rate(step))
        for path, after in trees.flatten(state.params).items():
            np.testing.assert_allclose(before[path] - after, applied, atol=1e-7, err_msg=f"{path}, {step}")
        assert game or metrics["learning_rate"] == rate(step)
    assert rate(6) != rate(3), "a rate that lags would not show"


def test_no_optimiser_counts_the_steps_of_its_schedule():
    params = {"w": np.ones((2, 2), np.float32)}
    for name, counts in (("adamw", 1), ("lars", 0), ("sgd", 0)):  # Adam's count is of its bias correction
        tx, _ = optim.make(config_of(name, schedule="cosine", warmup_steps=2), RUN)
        whole = [x for x in jax.tree.leaves(tx.init(params)) if jnp.issubdtype(x.dtype, jnp.integer)]
        assert len(whole) == counts, name


SETTINGS = {
    "adamw": dict(weight_decay=0.1, layer_decay=0.65),
    "adamw, some blocks not decayed": dict(weight_decay=0.1, no_decay=("block_01/mlp", "cls")),
    "adamw, per tensor": dict(weight_decay=0.1, clip="per_tensor", clip_norm=0.3),
    "adamw, global": dict(weight_decay=0.1, clip="global", clip_norm=0.3),
    "lars": dict(name="lars", weight_decay=0.01, form="simclr"),
    "lars byol": dict(name="lars", weight_decay=0.01, form="byol", layer_decay=0.75),
    "lars, some blocks not adapted": dict(name="lars", weight_decay=0.01, no_decay=("block_02/attn",)),
    "sgd": dict(name="sgd", weight_decay=0.01, layer_decay=0.75, clip="per_tensor", clip_norm=0.3),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_scanned_equals_looped(settings):
    """Five steps on a transformer whose blocks are stacked, and whose blocks are not."""
    rng = np.random.default_rng(0)
    single = trees.flatten({"backbone": vit_params(3, scan=False), "head": {"kernel": np.ones((8, 3))}})
    stacked = trees.flatten({"backbone": vit_params(3, scan=True), "head": {"kernel": np.ones((8, 3))}})

    def draw(scale):
        # Blocks of unlike size, so that a norm over the whole stack would show.
        return {
            path: (scale * rng.uniform(0.1, 3) * rng.normal(size=x.shape)).astype(np.float32)
            for path, x in single.items()
        }

    params, grads = draw(1.0), [draw(0.2) for _ in range(5)]
    config = config_of(**(dict(base_lr=0.01, schedule="cosine", warmup_steps=2) | settings))
    tx, _ = optim.make(config, RUN)
    looped = descend(tx, trees.unflatten(params), [trees.unflatten(g) for g in grads])[-1]
    scanned = descend(
        tx,
        trees.unflatten(trees.stack(params, stacked)),
        [trees.unflatten(trees.stack(g, stacked)) for g in grads],
    )[-1]
    looped, scanned = trees.flatten(looped), trees.unstack(trees.flatten(scanned))
    assert set(looped) == set(scanned)
    for path in looped:
        np.testing.assert_allclose(scanned[path], looped[path], atol=1e-6, err_msg=path)
        assert np.abs(looped[path] - params[path]).max() > 1e-6, path


def test_making_an_optimiser_touches_no_device(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("an array was made")

    monkeypatch.setattr(jnp, "asarray", fail)
    for name in ("adamw", "lars", "sgd"):
        with jax.transfer_guard("disallow"):
            optim.make(config_of(name, schedule="cosine", layer_decay=0.75, clip_norm=1.0), RUN)


def test_a_run_shorter_than_its_warm_up_takes_the_first_steps_of_the_recipe():
    _, rate = optim.make(config_of(schedule="cosine", warmup_steps=4000), RUN)
    np.testing.assert_allclose(rate(1000), 0.25)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(name="adam"), r"config\.optim\.name='adam' must be one of adamw, lars, sgd"),
        (dict(schedule="linear"), r"config\.optim\.schedule='linear' must be one of cosine"),
        (dict(warmup_steps=-1), r"config\.optim\.warmup_steps=-1 must be at least 0"),
        (dict(base_lr=0.0), r"config\.optim\.base_lr=0\.0 must be above 0"),
        (dict(weight_decay=-0.1), r"config\.optim\.weight_decay=-0\.1 must be at least 0"),
        (dict(b2=1.0), r"config\.optim\.b2=1\.0 must be at least 0 and below 1"),
        (dict(layer_decay=1.5), r"config\.optim\.layer_decay=1\.5 must be above 0"),
        (dict(clip="norm"), r"config\.optim\.clip='norm' must be one of global, per_tensor"),
        (dict(no_decay=("(",)), r"config\.optim\.no_decay=.* is no regular expression"),
        (dict(end_lr=0.1), r"config\.optim\.end_lr=0\.1 has no effect with schedule='constant'"),
        (dict(name="lars", form="larc"), r"config\.optim\.form='larc' must be one of simclr, byol"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        optim.make(config_of(**settings), RUN)
