"""The rules of the game, with players that are a matrix each: exact numbers, cheaply."""

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
from vitjax.objective import Run

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
        layer = spectral.Linear(1, NORMAL, normalised=self.normalised, name="out")
        return layer(images.reshape(len(images), -1), train)[:, 0]


def objective_of(judge=Judge(), label=None, accum=1, data=None, **rules):  # noqa: B008
    config = config_of("scenes_dcgan")
    config.accum = accum
    config.objective.update(rules)
    config.optim.update(dict(name="sgd", momentum=0.0, base_lr=0.1, warmup_steps=0))
    run = Run(10, 10.0, B, {}, {"label": tuple("abcde")}, np.float32)
    return adversarial.objective(Tracked(config), run, Maker(), judge, label)


def rounds(objective, batch=None, number=1):
    """(first state, last state, metrics)."""
    first = state = jax.jit(lambda: objective.init(KEY, {}))()
    update = jax.jit(objective.update)
    for i in range(number):
        state, metrics = update(state, batch_of() if batch is None else batch, jax.random.key(i))
    return first, state, metrics


def assert_close(a, b, tolerance=1e-6):
    b = trees.flatten(b)
    for path, x in trees.flatten(a).items():
        np.testing.assert_allclose(x, b[path], atol=tolerance, err_msg=path)


@pytest.mark.parametrize("accum", [1, 2])
def test_spectral_vectors_move_once_with_every_pass(accum):
    """Two discriminator steps and one of the generator: 2 x (real, made) + made, and 3 times pictures are made."""
    first, last, metrics = rounds(objective_of(discriminator_steps=2, discriminator_rate=1e-30, accum=accum))
    for player, passes in (("discriminator", 5), ("generator", 3)):
        if accum > 1 and player == "generator":
            passes = 3  # its weights move at the end of the round, after all of its passes
        u = first.extra["spectral"][player]["out"]["u"]
        kernel = first.params[player]["out"]["kernel"]
        for _ in range(passes * accum):
            sigma, u = spectral.power_iteration(kernel, u)
        np.testing.assert_allclose(last.extra["spectral"][player]["out"]["u"], u, atol=1e-6)
        np.testing.assert_allclose(metrics[f"{player}/spectral_norm"], sigma, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2])
def test_accumulation_and_devices_change_nothing(steps):
    """With spectral vectors that have converged, so that it does not matter how often they moved."""
    rules = dict(judge=Judge(normalised=False), discriminator_steps=steps, r1=0.1, loss="hinge")
    batch = batch_of() | {"valid": np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)}

    def settled(objective):
        state = jax.jit(lambda: objective.init(KEY, {}))()
        kernel, u = (
            state.params["generator"]["out"]["kernel"],
            state.extra["spectral"]["generator"]["out"]["u"],
        )
        for _ in range(200):
            sigma, u = spectral.power_iteration(kernel, u)
        extra = {**state.extra, "spectral": {"generator": {"out": {"u": u, "sigma": sigma}}}}
        return state._replace(extra=extra)

    objective = objective_of(**rules)
    state = settled(objective)
    expected, metrics = jax.jit(objective.update)(state, batch, KEY)
    parts, same = jax.jit(objective_of(accum=2, **rules).update)(state, batch, KEY)
    assert_close(parts.params, expected.params, 1e-5)
    for name in ("loss", "discriminator/accuracy_real", "discriminator/r1", "generator/loss"):
        np.testing.assert_allclose(same[name], metrics[name], rtol=1e-4, err_msg=name)
    mesh = mesh_of((2, 4, 1))
    with sharding.use(mesh):
        placed = jax.device_put(state, sharding.shardings(state, mesh))
        spread, _ = jax.jit(objective.update)(placed, sharding.put_batch(batch, mesh), KEY)
    assert_close(spread, expected, 1e-5)


def test_every_discriminator_step_sees_real_pictures_of_its_own():
    """Row i of a batch is seen by step i % steps; the generator's step sees none."""
    objective = objective_of(discriminator_steps=2, judge=Judge(normalised=False))
    _, expected, _ = rounds(objective)
    for rows, differs in ((slice(0, None, 2), True), (slice(1, None, 2), True)):
        batch = batch_of()
        batch["image"][rows] = 0
        _, found, _ = rounds(objective, batch)
        kernels = (state.params["discriminator"]["out"]["kernel"] for state in (found, expected))
        assert (not np.allclose(*kernels, atol=1e-7)) == differs


@pytest.mark.parametrize("label", [None, "label"])
def test_rows_that_do_not_count_change_nothing(label):
    batch = batch_of(labels=[0, 1, -1, 2, 3, -1, 4, 0])
    left_out = batch["label"] < 0
    batch["valid"] = ~left_out if label is None else np.ones(B, bool)
    objective = objective_of(label=label)
    _, expected, metrics = rounds(objective, batch)
    batch["image"][left_out] = 255
    _, found, same = rounds(objective, batch)
    assert_close(found, expected)
    np.testing.assert_allclose(same["loss"], metrics["loss"], rtol=1e-6)


def test_r1_of_a_linear_judge_is_half_its_squared_weight():
    first, _, metrics = rounds(objective_of(judge=Judge(normalised=False), r1=10.0))
    kernel = first.params["discriminator"]["out"]["kernel"]
    np.testing.assert_allclose(metrics["discriminator/r1"], 0.5 * jnp.sum(kernel**2), rtol=1e-4)
    _, _, without = rounds(objective_of(judge=Judge(normalised=False)))
    penalty = 10 * metrics["discriminator/r1"]
    np.testing.assert_allclose(metrics["loss"], without["loss"] + penalty, rtol=1e-4)


def test_the_discriminators_rate_is_a_multiple_of_the_generators():
    moved = {}
    for rate in (1.0, 3.0):
        first, last, _ = rounds(objective_of(discriminator_rate=rate))
        moved[rate] = (
            last.params["discriminator"]["out"]["kernel"] - first.params["discriminator"]["out"]["kernel"]
        )
    np.testing.assert_allclose(moved[3.0], 3 * moved[1.0], rtol=1e-2, atol=1e-7)


def test_the_average_copies_until_it_begins_and_then_averages():
    rules = dict(ema_decay=0.75, ema_start=2)
    _, copied, _ = rounds(objective_of(**rules), number=2)
    now = copied.params["generator"]
    assert_close(copied.extra["ema"]["params"]["generator"], now, 0)
    for buffers in (True, False):
        _, averaged, _ = rounds(objective_of(**rules, ema_buffers=buffers), number=3)
        mixed = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, now, averaged.params["generator"])
        assert_close(averaged.extra["ema"]["params"]["generator"], mixed)
        u = [state.extra["spectral"]["generator"]["out"]["u"] for state in (copied, averaged)]
        expected = 0.75 * u[0] + 0.25 * u[1] if buffers else u[1]
        np.testing.assert_allclose(
            averaged.extra["ema"]["spectral"]["generator"]["out"]["u"], expected, atol=1e-6
        )


def test_without_an_average_the_generator_itself_is_exported():
    objective = objective_of(ema_decay=0.0)
    _, last, _ = rounds(objective)
    assert "ema" not in last.extra
    assert_close(objective.export(last)["params"], last.params, 0)


def test_pictures_that_are_all_alike_have_no_diversity():
    class Stuck(Maker):
        @nn.compact
        def __call__(self, z, y, train=False):
            return super().__call__(jnp.ones_like(z), jnp.zeros_like(y), train)

    _, _, healthy = rounds(objective_of())
    config = config_of("scenes_dcgan")
    run = Run(10, 10.0, B, {}, {}, np.float32)
    _, _, stuck = rounds(adversarial.objective(Tracked(config), run, Stuck(), Judge()))
    assert stuck["health/diversity"] < 1e-5 < 1e-3 < healthy["health/diversity"]


def test_what_is_augmented_is_both_what_is_real_and_what_was_made():
    """A translated grey picture is grey: only with real ones translated too does the loss see it."""
    rules = dict(judge=Judge(normalised=False))
    _, plain, metrics = rounds(objective_of(**rules))
    _, augmented, other = rounds(objective_of(**rules, diff_augment=("cutout",)))
    kernels = (state.params["generator"]["out"]["kernel"] for state in (plain, augmented))
    assert other["loss"] != metrics["loss"] and not np.allclose(*kernels, atol=1e-7)
