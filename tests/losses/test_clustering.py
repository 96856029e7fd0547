import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import wave

from vitjax.losses import clustering

# Compiled: operation by operation the tests would take ten times as long.
sinkhorn = jax.jit(clustering.sinkhorn, static_argnames="iterations")
swapped_prediction = jax.jit(clustering.swapped_prediction)

S1 = wave(1, (4, 6))
S2 = 0.9 * wave(1, (4, 6)) + 0.3 * wave(40, (4, 6))
S3 = 0.7 * wave(1, (4, 6)) + 0.5 * wave(60, (4, 6))  # of a local crop
SCORES = jnp.asarray(np.stack([S1, S2, S3], axis=1), jnp.float32)


@jax.jit
def loss(scores):
    codes = jnp.stack([sinkhorn(scores[:, 0]), sinkhorn(scores[:, 1])], axis=1)
    return swapped_prediction(scores, codes)


def test_codes_are_the_golden_ones():
    wanted = [
        [0.43816887369770113, 0.005378938994649124, 6.146048726906662e-07, 2.775348738107273e-07],
        [0.20674987683524063, 0.5038610851106993, 0.0026222471239729962, 0.0003695965752332817],
        [0.0013122018604988823, 0.3738560469663617, 0.2222953192671356, 0.04486243082402637],
        [2.3761423354613148e-07, 0.0031894760751498604, 0.37263175244610836, 0.4800396970820745],
    ]
    np.testing.assert_allclose(sinkhorn(SCORES[:, 0])[:, :4], wanted, rtol=2e-5)


def test_codes_of_a_picture_sum_to_one_and_prototypes_are_used_alike():
    codes = sinkhorn(SCORES[:, 0], iterations=20)
    np.testing.assert_allclose(codes.sum(axis=1), np.ones(4), rtol=1e-5)
    np.testing.assert_allclose(codes.sum(axis=0), np.full(6, 4 / 6), rtol=1e-2)


def test_scores_far_apart_have_codes_too():
    """exp(-100 / 0.05) is no float32: a picture or a prototype with such a sum would divide 0 by 0."""
    scores = jnp.asarray([[0.0, -100.0, -100.0], [-200.0, -200.0, -300.0]])
    codes = sinkhorn(scores, 0.05)
    np.testing.assert_allclose(codes.sum(axis=1), np.ones(2), rtol=1e-5)


def test_earlier_scores_share_in_the_balance_of_the_batch():
    """With a queue the codes are the last rows of the codes of both."""
    queue = jnp.asarray(wave(200, (8, 6)), jnp.float32)
    codes = sinkhorn(jnp.concatenate([queue, SCORES[:, 0]]))[8:]
    assert float(jnp.max(jnp.abs(codes - sinkhorn(SCORES[:, 0])))) > 0.01
    np.testing.assert_allclose(codes.sum(axis=1), np.ones(4), rtol=1e-5)


@pytest.mark.parametrize("views, wanted", [(2, 7.660846716424345), (3, 5.752889179756133)])
def test_loss_is_the_golden_one(views, wanted):
    assert loss(SCORES[:, :views]) == pytest.approx(wanted, rel=1e-5)


def test_gradient_is_the_golden_one():
    gradient = jax.jit(jax.grad(loss))(SCORES[:, :2])
    first = [
        0.1323511347697699, 0.8285746904013688, 0.00038220141526329064,
        -2.2507105429207416e-06, -0.2430670863890222, -0.718238689486837,
    ]  # fmt: skip
    np.testing.assert_allclose(gradient[0, 0], first, rtol=1e-4, atol=1e-6)
    norms = jnp.linalg.norm(gradient, axis=(0, 2))
    np.testing.assert_allclose(norms, [2.012670695818705, 1.9450762965808124], rtol=1e-5)


def test_codes_get_no_gradient():
    codes = jnp.full((4, 2, 6), 1 / 6)
    assert jnp.all(jax.grad(swapped_prediction, 1)(SCORES, codes) == 0)
    assert jnp.all(jax.grad(lambda s: sinkhorn(s)[0, 0])(SCORES[:, 0]) == 0)


def test_no_view_is_compared_with_its_own_codes():
    """With one code, of view 0, the scores of view 0 do not matter."""
    codes = sinkhorn(SCORES[:, 0])[:, None]
    changed = SCORES.at[:, 0].add(wave(9, (4, 6)))
    assert swapped_prediction(changed, codes) == swapped_prediction(SCORES, codes)


def test_equal_scores_cost_the_logarithm_of_the_number_of_prototypes():
    assert loss(jnp.zeros((4, 3, 6))) == pytest.approx(np.log(6), rel=1e-6)
