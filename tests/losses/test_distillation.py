import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import wave

from vitjax.losses import distillation

# Compiled: operation by operation the tests would take ten times as long.
dino = jax.jit(distillation.dino)
moved_center = jax.jit(distillation.moved_center)


def by_picture(stacked, crops):
    """[B, crops, K] of the crops' outputs stacked one crop after the other."""
    return jnp.asarray(stacked.reshape(crops, -1, stacked.shape[-1]).swapaxes(0, 1), jnp.float32)


STUDENT = by_picture(2 * wave(1, (8, 6)), 4)
TEACHER = by_picture(2 * wave(1, (4, 6)) + 0.3 * wave(20, (4, 6)), 2)
CENTER = jnp.asarray(0.1 * wave(5, (6,)), jnp.float32)


def test_loss_is_the_golden_one():
    assert dino(STUDENT, TEACHER, CENTER, 0.1, 0.04) == pytest.approx(8.390816555447747, rel=1e-5)


def test_gradient_is_the_golden_one_and_the_students_alone():
    student, teacher, center = jax.jit(jax.grad(dino, (0, 1, 2)))(STUDENT, TEACHER, CENTER, 0.1, 0.04)
    np.testing.assert_allclose(student[0, 0, :2], [0.1706708343645186, -0.17067097522523375], rtol=1e-4)
    np.testing.assert_allclose(student[0, 0, 2:], np.zeros(4), atol=1e-6)
    assert jnp.linalg.norm(student) == pytest.approx(4.454593213383595, rel=1e-5)
    assert jnp.all(teacher == 0) and jnp.all(center == 0)


def test_the_centre_is_the_golden_one():
    wanted = [
        0.03604664898981873, 0.1931385602556641, 0.17265976992655713,
        -0.006561616611701446, -0.17975028309760713, -0.18767736826447454,
    ]  # fmt: skip
    np.testing.assert_allclose(moved_center(CENTER, TEACHER, 0.9), wanted, rtol=1e-5)


def test_pictures_that_do_not_count_do_not_move_the_centre():
    valid = jnp.asarray([False, True])
    spoilt = TEACHER.at[0].set(jnp.nan)
    found = moved_center(CENTER, spoilt, 0.9, valid=valid)
    np.testing.assert_allclose(found, moved_center(CENTER, TEACHER[1:], 0.9), rtol=1e-6)
    np.testing.assert_array_equal(moved_center(CENTER, spoilt, 0.9, valid=~(valid | True)), CENTER)


def test_the_centre_takes_what_all_pictures_share_from_the_targets():
    shared = jnp.asarray([5.0, 0, 0, 0, 0, 0])
    lifted = dino(STUDENT, TEACHER + shared, CENTER + shared, 0.1, 0.04)
    np.testing.assert_allclose(lifted, dino(STUDENT, TEACHER, CENTER, 0.1, 0.04), rtol=1e-4)


def test_equal_outputs_of_the_student_cost_the_logarithm_of_the_number_of_prototypes():
    assert dino(jnp.zeros((2, 4, 6)), TEACHER, CENTER, 0.1, 0.04) == pytest.approx(np.log(6), rel=1e-6)
