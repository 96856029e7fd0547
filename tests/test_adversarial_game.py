"""The rules of the game, with players that are a matrix each: exact numbers, cheaply."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives.objective_of import batch_of, config_of
from steps import mesh_of

from vitjax import adversarial, sharding, trees
from vitjax.config import Tracked
from vitjax.models import spectral
from vitjax.objective import Run, State

NORMAL = jax.nn.initializers.normal(0.02)
KEY = jax.random.key(0)
B = 8


class Maker(nn.Module):
    """Pictures that are a normalised linear map of the latent, moved by class."""

    @nn.compact
    def __call__(self, z, y, train=False):
        x = spectral.Linear(32 * 32 * 3, NORMAL, name="out")(z, train)
        x = x + spectral.Embed(5, 1, NORMAL, normalised=False, name="class")(y, train)
        return jnp.tanh(x).reshape(-1, 32, 32, 3)


class Judge(nn.Module):
    """A linear map of the pixels."""

    normalised: bool = True

    @nn.compact
    def __call__(self, images, y, train=False):
        x = images.reshape(len(images), -1)
        if self.normalised:
            return spectral.Linear(1, NORMAL, name="out")(x, train)[:, 0]
        return nn.Dense(1, kernel_init=NORMAL, name="out")(x)[:, 0]


RAW = Judge(normalised=False)


@functools.cache
def game(judge=Judge(), label=None, accum=1, **rules):  # noqa: B008
    """(objective, its first state, its compiled update)."""
    config = config_of("scenes_dcgan")
    config.accum = accum
    config.data.crop, config.augment.flip = "host", 0.0  # the pictures as they are
    config.objective.update(rules)
    config.optim.update(dict(name="sgd", momentum=0.0, base_lr=0.1, warmup_steps=0))
    run = Run(10, 10.0, B, {}, {"label": tuple("abcde")}, np.float32)
    objective = adversarial.objective(Tracked(config), run, Maker(), judge, label)
    return objective, jax.jit(lambda: objective.init(KEY, {}))(), jax.jit(objective.update)


def kernels(*states, player="discriminator"):
    return [state.params[player]["out"]["kernel"] for state in states]


def assert_close(a, b, tolerance=1e-6):
    b = trees.flatten(b)
    for path, x in trees.flatten(a).items():
        np.testing.assert_allclose(x, b[path], atol=tolerance, err_msg=path)


@functools.partial(jax.jit, static_argnums=2)
def iterated(kernel, u, times):
    step = lambda _, carry: spectral.power_iteration(kernel, carry[1])  # noqa: E731
    return jax.lax.fori_loop(0, times, step, (jnp.zeros(()), u))


def test_spectral_vectors_move_once_with_every_pass():
    """Two discriminator steps and one of the generator: 2 x (real, made) + made, and 3 times pictures are made."""
    _, first, update = game(discriminator_steps=2, discriminator_rate=1e-30)
    last, metrics = update(first, batch_of(), KEY)
    # The generator's weights move at the end of the round, after all of its passes.
    for player, passes in (("discriminator", 5), ("generator", 3)):
        before, after = (state.extra["spectral"][player]["out"] for state in (first, last))
        sigma, u = iterated(*kernels(first, player=player), before["u"], passes)
        np.testing.assert_allclose(after["u"], u, atol=1e-6)
        np.testing.assert_allclose(metrics[f"{player}/spectral_norm"], sigma, rtol=1e-4)
        fewer = iterated(*kernels(first, player=player), before["u"], passes - 1)[1]
        assert player == "discriminator" or not np.allclose(fewer, u, atol=1e-6)


def test_accumulation_and_devices_change_nothing():
    """With spectral vectors that have converged, so that it does not matter how often they moved."""
    rules = dict(judge=RAW, discriminator_steps=2, r1=0.1, loss="hinge")
    batch = batch_of() | {"valid": np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)}
    objective, state, update = game(**rules)
    spun = iterated(
        *kernels(state, player="generator"), state.extra["spectral"]["generator"]["out"]["u"], 300
    )
    settled = {"generator": {"out": dict(zip(("sigma", "u"), spun))}}
    state = state._replace(extra={**state.extra, "spectral": settled})
    expected, metrics = update(state, batch, KEY)
    parts, same = game(accum=2, **rules)[2](state, batch, KEY)
    assert_close(parts.params, expected.params, 1e-5)
    for name in ("loss", "discriminator/accuracy_real", "discriminator/r1", "generator/loss"):
        np.testing.assert_allclose(same[name], metrics[name], rtol=1e-3, err_msg=name)
    mesh = mesh_of((2, 2, 1))
    with sharding.use(mesh):
        placed = jax.device_put(state, sharding.shardings(state, mesh))
        spread, _ = jax.jit(objective.update)(placed, sharding.put_batch(batch, mesh), KEY)
    assert_close(spread, expected, 1e-5)


def test_every_discriminator_step_sees_real_pictures_of_its_own():
    """Step i of n sees the rows i, i + n, ..."""
    _, first, update = game(judge=RAW, discriminator_steps=2, r1=0.1, loss="hinge")
    expected, _ = update(first, batch_of(), KEY)
    for part in (0, 1):
        batch = batch_of()
        batch["image"][part::2] = 0
        found, _ = update(first, batch, KEY)
        assert not np.allclose(*kernels(found, expected), atol=1e-7), f"step {part} saw no pictures"


@pytest.mark.parametrize("label", [None, "label"])
def test_rows_that_do_not_count_change_nothing(label):
    batch = batch_of(labels=[0, 1, -1, 2, 3, -1, 4, 0])
    left_out = batch["label"] < 0
    batch["valid"] = ~left_out if label is None else np.ones(B, bool)
    _, first, update = game(label=label) if label else game()
    expected, metrics = update(first, batch, KEY)
    batch["image"] = np.where(left_out[:, None, None, None], 255, batch["image"]).astype(np.uint8)
    found, same = update(first, batch, KEY)
    assert_close(found, expected)
    np.testing.assert_allclose(same["loss"], metrics["loss"], rtol=1e-6)


def test_r1_of_a_linear_judge_is_half_its_squared_weight():
    _, first, update = game(judge=RAW, r1=10.0)
    _, metrics = update(first, batch_of(), KEY)
    np.testing.assert_allclose(metrics["discriminator/r1"], 0.5 * jnp.sum(kernels(first)[0] ** 2), rtol=1e-4)
    _, without = game(judge=RAW)[2](first, batch_of(), KEY)
    np.testing.assert_allclose(metrics["loss"], without["loss"] + 10 * metrics["discriminator/r1"], rtol=1e-4)


def test_the_discriminators_rate_is_a_multiple_of_the_generators():
    moved = []
    for made in (game(), game(discriminator_rate=3.0)):
        last, _ = made[2](made[1], batch_of(), KEY)
        moved.append(kernels(last)[0] - kernels(made[1])[0])
    np.testing.assert_allclose(moved[1], 3 * moved[0], rtol=1e-2, atol=1e-7)


def test_pictures_that_are_all_alike_have_no_diversity():
    _, first, update = game()
    _, healthy = update(first, batch_of(), KEY)
    white = {"embedding": first.params["generator"]["class"]["embedding"] + 100}
    stuck = {**first.params, "generator": {**first.params["generator"], "class": white}}
    _, collapsed = update(first._replace(params=stuck), batch_of(), KEY)
    assert collapsed["health/diversity"] < 1e-5 < 1e-3 < healthy["health/diversity"]


@pytest.mark.parametrize("pictures, alike", [(1, True), (4, True), (10, True), (32, False)])
def test_a_few_pictures_again_and_again_are_alike(pictures, alike):
    chosen = np.random.default_rng(0).uniform(-1, 1, (pictures, 16, 16, 3))
    batch = jnp.asarray(np.resize(chosen, (32, 16, 16, 3)), jnp.float32)
    counts = jnp.ones(32, bool)
    apart = float(adversarial._apart(batch, counts))
    assert (apart < 0.02) == alike
    # A picture that does not count is nobody's like.
    other = adversarial._apart(batch.at[0].set(batch[1]), counts.at[0].set(False))
    assert not alike or other < 0.02
    assert alike or float(other) == pytest.approx(apart, rel=0.1)


def test_what_is_augmented_is_both_what_is_real_and_what_was_made():
    _, first, update = game(judge=RAW, diff_augment=("cutout",))
    batch = batch_of()
    batch["image"][:] = 255
    cut, metrics = update(first, batch, KEY)
    plain, other = game(judge=RAW)[2](first, batch, KEY)
    assert metrics["loss"] != other["loss"]
    assert not np.allclose(*kernels(cut, plain, player="generator"), atol=1e-7)


def generator_of(value):
    return {"params": {"w": jnp.full(2, value)}, "batch_stats": {"mean": jnp.full(3, value)}}


@pytest.mark.parametrize("buffers", [True, False])
def test_the_average_copies_until_it_begins_and_then_averages(buffers):
    average = adversarial.Average(0.75, 2, buffers)

    def by_player(variables):
        return {collection: {"generator": tree} for collection, tree in variables.items()}

    extra = average.start(by_player(generator_of(0.0)))
    for step, value in enumerate((1.0, 2.0, 6.0)):
        new = by_player(generator_of(value))
        extra = {"ema": extra["ema"], "batch_stats": new["batch_stats"]}
        _, extra = average.after(new["params"], extra, jnp.asarray(step))
        mixed = value if step < 2 else 0.75 * 2 + 0.25 * 6
        assert jnp.all(extra["ema"]["params"]["generator"]["w"] == mixed)
        assert jnp.all(extra["ema"]["batch_stats"]["generator"]["mean"] == (mixed if buffers else value))


def test_without_an_average_the_generator_itself_is_exported():
    average = adversarial.Average(0.0, 2, True)
    params = {"generator": {"w": jnp.ones(2)}}
    assert average.start({"params": params}) == {}
    state = State(jnp.zeros(()), params, (), {"batch_stats": {}})
    assert average.export(state)["params"] is params
