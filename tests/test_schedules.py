"""Schedules against published numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import schedules


def at(schedule, steps):
    """The values at `steps`, computed as a training step computes them."""
    return np.array([float(x) for x in jax.jit(jax.vmap(schedule))(jnp.asarray(steps, jnp.int32))])


def test_warmup_and_cosine_equal_big_vision():
    rate = schedules.after_warmup(0.0, 1.0, 100, schedules.cosine(1.0, 0.0, 900))
    got = at(rate, [0, 1, 50, 100, 550, 999, 1000, 2000])
    np.testing.assert_allclose(got, [0, 0.01, 0.5, 1, 0.5, 3.046171104803541e-06, 0, 0], atol=1e-7)


def test_warmup_and_rsqrt_equal_big_vision():
    then = schedules.rsqrt(1.0, 0.0, steps=900, timescale_steps=10_000, cooldown_steps=200)
    got = at(schedules.after_warmup(0.0, 1.0, 100, then), [0, 50, 100, 500, 850, 1000, 1100])
    np.testing.assert_allclose(got, [0, 0.5, 1, 0.9805806756909201, 0.7233642332556183, 0, 0], atol=1e-7)


def test_a_warmup_of_fractional_epochs_equals_mae():
    """Ten steps an epoch: epochs 0, 0.5, 20, 40 and 420."""
    rate = schedules.after_warmup(0.0, 1.5e-4, 400.0, schedules.cosine(1.5e-4, 0.0, 7600.0))
    np.testing.assert_allclose(
        at(rate, [0, 5, 200, 400, 4200]), [0, 1.875e-6, 7.5e-5, 1.5e-4, 7.5e-5], rtol=1e-5
    )


def test_a_warmup_may_start_above_zero():
    """SwAV's, from 0.3 to 4.8."""
    rate = schedules.after_warmup(0.3, 4.8, 10, schedules.constant(4.8))
    np.testing.assert_allclose(at(rate, [0, 5, 10, 99]), [0.3, 2.55, 4.8, 4.8], rtol=1e-6)


def test_cosine_equals_the_weight_decay_of_dino():
    got = at(schedules.cosine(0.04, 0.4, 400), [0, 100, 200, 300, 400])
    np.testing.assert_allclose(got, [0.04, 0.09272077938642143, 0.22, 0.3472792206135786, 0.4], rtol=1e-6)


@pytest.mark.parametrize("initial", [0.9, 0.996, 0.9995])
@pytest.mark.parametrize("total", [1, 7, 1000, 125_000.5])
def test_ema_momentum_begins_at_its_base_and_ends_at_exactly_one(initial, total):
    steps = [0, round(total / 3), math.ceil(total), math.ceil(total) + 5]
    got = at(schedules.ema_momentum(initial, total), steps)
    third = 1 - (1 - initial) * (math.cos(math.pi * steps[1] / total) + 1) / 2
    np.testing.assert_allclose(got[:2], [initial, third], rtol=2e-7)
    assert got[2] == got[3] == 1.0


def test_linear_warmup_passes_both_ends_of_the_teacher_temperature_of_dino():
    """30 epochs of 10 steps; its code has numpy.linspace(0.04, 0.07, 30)[epoch], which moves once an epoch."""
    got = at(schedules.linear_warmup(0.04, 0.07, 300.0), [0, 150, 300, 900])
    np.testing.assert_allclose(got, [0.04, 0.055, 0.07, 0.07], rtol=1e-6)


def test_without_length_a_schedule_is_at_its_end():
    assert float(schedules.linear_warmup(0.04, 0.07, 0)(0)) == np.float32(0.07)
    assert float(schedules.cosine(0.04, 0.4, 0)(0)) == np.float32(0.4)
    assert float(schedules.after_warmup(0.0, 2.0, 0, schedules.constant(2.0))(0)) == 2.0
