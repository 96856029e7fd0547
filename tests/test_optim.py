"""Optimisers, schedules and masks against published numbers, and scanned blocks against single ones."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from descent import G1, G2, RUN, W, config_of, descend, looped_and_scanned

from vitjax import optim, trees
from vitjax.errors import UserError
from vitjax.objective import Output, Player, from_loss, from_players


def test_adamw_equals_torch():
    tx, _ = optim.make(config_of(base_lr=1e-2, weight_decay=0.05), RUN)
    one, two = descend(tx, {"w": W}, [{"w": G1}, {"w": G2}])
    row = [0.8510502483033793, 0.9188427756372526, 0.1310494698493147, -0.7664240930601863]
    np.testing.assert_allclose(one["w"][0], row, atol=1e-6)
    row = [0.40662962542603137, -0.5593171768420165, -1.018988782483066, -0.5322069199635444]
    np.testing.assert_allclose(two["w"][2], row, atol=1e-6)


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
        "start_lr": 0.0,
        "peak_lr": pytest.approx(2.4e-3),
        "end_lr": 0.0,
        "warmup_steps": 10,
        "weight_decay": 0.0,
        "end_weight_decay": 0.0,
        "held_steps": 0,
    }


def test_a_warmup_starts_at_start_lr_whatever_the_batch():
    """solo-learn's 3e-5, here with a batch that doubles the base rate."""
    got = rates([0, 10, 20], base_lr=0.4, base_batch=128, start_lr=3e-5, warmup_steps=20)
    np.testing.assert_allclose(got, [3e-5, 0.400015, 0.8], rtol=1e-6)


def zero_gradients(params, steps):
    return [jax.tree.map(np.zeros_like, params)] * steps


def test_weight_decay_follows_a_cosine_by_step():
    """DINO's from 0.04 to 0.4: without gradients and momentum each step multiplies by 1 - rate * decay."""
    config = config_of("sgd", base_lr=0.5, momentum=0.0, weight_decay=0.04, end_weight_decay=0.4)
    run = SimpleNamespace(total_steps=4, steps_per_epoch=1.0, batch_size=256)
    params = {"w": np.ones((2, 2), np.float32)}
    path = [1.0, *(float(p["w"][0, 0]) for p in descend(optim.make(config, run)[0], params, zero_gradients(params, 5)))]
    decays = 2 * (1 - np.divide(path[1:], path[:-1]))
    np.testing.assert_allclose(decays, [0.04, 0.09272077938642143, 0.22, 0.3472792206135786, 0.4], rtol=2e-6)
    assert optim.describe(config, run)["end_weight_decay"] == 0.4


@pytest.mark.parametrize("name, step", [("sgd", 0.25), ("lars", 0.25), ("adamw", 0.25)])
def test_decay_vectors_decays_biases_and_norms_but_not_what_no_decay_names(name, step):
    """SimSiam's SGD decays every parameter."""
    params = {"kernel": np.ones((2, 3)), "bias": np.ones(3), "logit_scale": np.ones(())}
    settings = dict(weight_decay=0.5, base_lr=0.5, decay_vectors=True, no_decay="logit_scale")
    if name == "lars":
        # Adapted to the length of the weight, which decay alone has here: 1e-3 * |w|.
        settings, step = settings | dict(trust_coefficient=0.5), 0.5 * 0.5
    (new,) = descend(optim.make(config_of(name, **settings), RUN)[0], params, zero_gradients(params, 1))
    got = {name: float(x.ravel()[0]) for name, x in new.items()}
    assert got == pytest.approx(dict(kernel=1 - step, bias=1 - step, logit_scale=1.0))


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
    "lars, some blocks not adapted": dict(name="lars", weight_decay=0.01, no_decay=("block_02/attention",)),
    "larc": dict(name="lars", weight_decay=0.01, form="larc", end_weight_decay=0.5, no_decay=("block_01/mlp",)),
    "solo, some blocks slower": dict(
        name="lars", weight_decay=0.01, form="solo", trust_coefficient=0.02, layer_decay=0.75,
        rate_scales=(("block_01/.*kernel", 0.1), ("bias$", 3.0)), constant_rate=("block_02", "head"),
    ),
    "adamw, some blocks still": dict(
        weight_decay=0.1, end_weight_decay=0.5, decay_vectors=True, clip="global", clip_norm=0.3,
        frozen=("backbone/patch", "block_00/mlp/fc1"), held=("block_00", "block_02/attention", "head"), held_epochs=0.1,
    ),
    "sgd, some blocks still": dict(
        name="sgd", weight_decay=0.1, clip="per_tensor", clip_norm=0.3, frozen=("block_01",), held=("block",),
        held_steps=3,
    ),
    "sgd": dict(name="sgd", weight_decay=0.01, layer_decay=0.75, clip="per_tensor", clip_norm=0.3),
}  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_scanned_equals_looped(settings):
    """Five steps on a transformer whose blocks are stacked, and whose blocks are not."""
    first, looped, scanned = looped_and_scanned(**settings)
    frozen = [path for path in first if any(re.search(p, path) for p in settings.get("frozen", ()))]
    assert set(looped) == set(scanned)
    for path in looped:
        np.testing.assert_allclose(scanned[path], looped[path], atol=1e-6, err_msg=path)
        moved = np.abs(looped[path] - first[path]).max()
        assert moved == 0 if path in frozen else moved > 1e-6, path


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
        (dict(name="lars", form="lamb"), r"config\.optim\.form='lamb' must be one of simclr, byol, larc, solo"),
        (dict(start_lr=0.1), r"config\.optim\.start_lr=0\.1 has no effect without a warm-up"),
        (dict(start_lr=-0.1), r"config\.optim\.start_lr=-0\.1 must be at least 0"),
        (dict(end_weight_decay=-1.0), r"config\.optim\.end_weight_decay=-1\.0 must be at least 0"),
        (dict(rate_scales=("bias", 0.1)), r"config\.optim\.rate_scales=.*'bias' must be a pattern and a factor"),
        (dict(rate_scales=(("bias", 0.0),)), r"rate_scales=.* above 0.* belongs into config\.optim\.frozen"),
        (dict(constant_rate=("(",)), r"config\.optim\.constant_rate=.* is no regular expression"),
        (dict(held=("head",)), r"config\.optim\.held=\('head',\) must be told for how long: give .*held_steps"),
        (dict(held=("head",), held_epochs=-1.0), r"config\.optim\.held_epochs=-1\.0 must be at least 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        optim.make(config_of(**settings), RUN)
