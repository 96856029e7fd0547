import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import wave

from vitjax.losses import image_text

# Compiled: operation by operation the tests would take ten times as long.
clip = jax.jit(image_text.clip, static_argnames="chunks")
siglip = jax.jit(image_text.siglip, static_argnames="chunks")

IMAGE = jnp.asarray(wave(1, (4, 8)), jnp.float32)
TEXT = jnp.asarray(wave(1, (4, 8)) + 0.5 * wave(100, (4, 8)), jnp.float32)
SAME = jnp.asarray([3, 8, 3, 1])


def cosines():
    image, text = (np.asarray(x) / np.linalg.norm(x, axis=1, keepdims=True) for x in (IMAGE, TEXT))
    return image @ text.T


@pytest.mark.parametrize("scale, wanted", [(1 / 0.07, 0.036394677989000146), (10.0, 0.06232820056935066)])
def test_clip_is_the_golden_one(scale, wanted):
    assert clip(IMAGE, TEXT, scale) == pytest.approx(wanted, rel=2e-5)


def test_clip_at_its_largest_scale_is_the_golden_one():
    assert clip(IMAGE, TEXT, 100.0) == pytest.approx(2.3116026697789246e-06, abs=1e-5)


def test_gradient_of_clip_is_the_golden_one():
    image, text = jax.jit(jax.grad(clip, (0, 1)))(IMAGE, TEXT, 1 / 0.07)
    first = [
        0.008736291297883489, -0.008195964498102505, -0.017592888332159873, -0.010814991767390833,
        0.0059061583524274335, 0.01719721372066867, 0.012677230103141547, -0.003498140407171927,
    ]  # fmt: skip
    np.testing.assert_allclose(image[0], first, rtol=1e-4, atol=1e-6)
    assert jnp.linalg.norm(image) == pytest.approx(0.2533148777242238, rel=1e-4)
    assert jnp.linalg.norm(text) == pytest.approx(0.18008927076293202, rel=1e-4)


@pytest.mark.parametrize(
    "scale, bias, wanted",
    [(10.0, -10.0, 1.3865070329980183), (1.0, 0.0, 2.139787240724078), (10.0, -2.71, 1.995298595888682)],
)
def test_siglip_is_the_golden_one(scale, bias, wanted):
    assert siglip(IMAGE, TEXT, scale, bias) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("chunks", [1, 2])
def test_gradient_of_siglip_is_the_golden_one_in_scale_and_bias_too(chunks):
    def loss(image, text, log_scale, bias):
        return siglip(image, text, jnp.exp(log_scale), bias, chunks=chunks)

    image, text, log_scale, bias = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(IMAGE, TEXT, jnp.log(10.0), -10.0)
    first = [0.08857544286546051, -0.08309718167306274, -0.17837064060365954, -0.10965095516160622]
    np.testing.assert_allclose(image[0, :4], first, rtol=1e-4)
    assert jnp.linalg.norm(image) == pytest.approx(0.9168426699791963, rel=1e-5)
    assert jnp.linalg.norm(text) == pytest.approx(0.7892533343867356, rel=1e-5)
    assert abs(log_scale) == pytest.approx(6.446590551466356, rel=1e-5)
    assert abs(bias) == pytest.approx(0.7188585483189553, rel=1e-5)


@pytest.mark.parametrize("chunks", [1, 2])
def test_gradient_of_clip_in_its_scale_is_that_of_a_difference(chunks):
    def loss(scale):
        return clip(IMAGE, TEXT, scale, chunks=chunks)

    # d/ds of a softmax cross-entropy is the expected cosine minus the positive's.
    cos = cosines()
    both = [np.exp(5 * cos) / np.exp(5 * cos).sum(axis, keepdims=True) for axis in (0, 1)]
    wanted = np.mean([(p * cos).sum(axis) - np.diagonal(cos) for axis, p in enumerate(both)])
    assert jax.jit(jax.grad(loss))(5.0) == pytest.approx(wanted, rel=1e-4)


def test_equal_captions_share_the_target_of_clip():
    logits = 5 * cosines()
    targets = np.asarray([[0.5, 0, 0.5, 0], [0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 1]])
    losses = [-(targets * np.asarray(jax.nn.log_softmax(m))).sum(axis=1) for m in (logits, logits.T)]
    assert clip(IMAGE, TEXT, 5.0, same=SAME) == pytest.approx(np.mean(losses), rel=1e-5)


def test_where_equal_captions_have_equal_embeddings_clip_shares_the_target_by_itself():
    """As they have from every tower that draws nothing; elsewhere the option changes the loss."""

    def loss(image, captions, same=None):
        return clip(image, captions[jnp.asarray([0, 1, 0, 2])], 5.0, same=same)

    step = jax.jit(jax.value_and_grad(loss, (0, 1)))
    for shared, plain in zip(*(jax.tree.leaves(step(IMAGE, TEXT[:3], same)) for same in (SAME, None)), strict=True):
        np.testing.assert_allclose(shared, plain, rtol=1e-5, atol=1e-6)
    assert abs(clip(IMAGE, TEXT, 5.0, same=SAME) - clip(IMAGE, TEXT, 5.0)) > 0.1


def test_equal_captions_match_in_siglip():
    logits = 5 * cosines() - 2
    signs = np.where(np.asarray(SAME)[:, None] == np.asarray(SAME), 1, -1)
    wanted = np.log1p(np.exp(-signs * logits)).sum(axis=1).mean()
    assert siglip(IMAGE, TEXT, 5.0, -2.0, same=SAME) == pytest.approx(wanted, rel=1e-5)


def test_pictures_of_one_caption_are_not_pushed_from_it():
    """Of equal embeddings whose captions are equal nothing is left to learn."""
    image = jnp.asarray([[1.0, 0], [1, 0], [0, 1]])
    same = jnp.asarray([0, 0, 1])
    gradient = jax.jit(jax.grad(lambda x: clip(x, image, 50.0, same=same)))(image)
    np.testing.assert_allclose(gradient, np.zeros((3, 2)), atol=1e-5)
    assert clip(image, image, 50.0, same=same) == pytest.approx(np.log(2) * 2 / 3, rel=1e-5)


def test_a_caption_that_does_not_count_is_no_positive():
    valid = jnp.asarray([True, True, False, True])
    found = clip(IMAGE, TEXT, 5.0, same=SAME, valid=valid)
    kept = np.flatnonzero(valid)
    np.testing.assert_allclose(found, clip(IMAGE[kept], TEXT[kept], 5.0), rtol=1e-5)


def test_chance_levels_are_as_stated():
    """Softmax: ln B; sigmoid: near 1 + ln B where all logits are at best, -ln(B - 1), and 0.69 B where they are 0."""
    same = jnp.ones((64, 3))
    assert clip(same, same, 10.0) == pytest.approx(np.log(64), rel=1e-5)
    assert siglip(same, same, 10.0, -10.0 - np.log(63)) == pytest.approx(1 + np.log(64), rel=2e-3)
    assert siglip(same, same, 0.0, 0.0) == pytest.approx(64 * np.log(2), rel=1e-5)
