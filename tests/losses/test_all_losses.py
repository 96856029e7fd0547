"""What every loss of embeddings promises, whatever it computes."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import wave
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vitjax import sharding
from vitjax.errors import UserError
from vitjax.losses.clustering import sinkhorn, swapped_prediction
from vitjax.losses.contrastive import info_nce, info_nce_two_sided, margin_contrastive, nt_xent
from vitjax.losses.distillation import dino
from vitjax.losses.image_text import clip, siglip
from vitjax.losses.redundancy import barlow_twins, vicreg
from vitjax.losses.regression import negative_cosine, unit_regression

B, E, K = 16, 6, 5
CAPTIONS = jnp.asarray([0, 1, 2, 1, 0, 5, 6, 7, 1, 9, 10, 7, 12, 13, 14, 15])
QUEUE = jnp.asarray(wave(900, (7, E)), jnp.float32)
CENTER = jnp.asarray(0.1 * wave(5, (K,)), jnp.float32)


def clusters(scores, other, valid=None):
    codes = sinkhorn(other[:, 0], 0.2, valid=valid)
    return swapped_prediction(scores, codes[:, None], 0.3, valid=valid)


# name -> loss(x1, x2, valid=, chunks=), x1 and x2 of embeddings [B, E]
IN_BLOCKS = {
    "nt_xent": lambda a, b, **kw: nt_xent(a, b, 0.3, **kw),
    "info_nce": lambda a, b, **kw: info_nce(a, b, 0.3, **kw),
    "info_nce queue": lambda a, b, **kw: info_nce(a, b, 0.3, queue=QUEUE, **kw),
    "info_nce_two_sided": lambda a, b, **kw: info_nce_two_sided(a, b, 0.3, **kw),
    "clip": lambda a, b, **kw: clip(a, b, 7.0, **kw),
    "siglip": lambda a, b, **kw: siglip(a, b, 7.0, -2.0, **kw),
}
# name -> loss(x1, x2, captions, valid=, chunks=)
OF_CAPTIONS = {
    "clip same": lambda a, b, same, **kw: clip(a, b, 7.0, same=same, **kw),
    "siglip same": lambda a, b, same, **kw: siglip(a, b, 7.0, -2.0, same=same, **kw),
}
WHOLE = {
    "unit_regression": unit_regression,
    "negative_cosine": negative_cosine,
    "barlow_twins": barlow_twins,
    "vicreg": lambda a, b, valid=None: vicreg(a, b, halved=True, valid=valid)["loss"],
}
OF_LABELS = {
    "margin": lambda a, b, same, valid=None: margin_contrastive(a, b, same % 2 == 0, 2.0, valid=valid)
}
OF_VIEWS = {
    "clusters": clusters,
    "dino": lambda a, b, valid=None: dino(a, b[:, :2], CENTER, 0.3, 0.2, valid=valid),
}
CHUNKED = {**IN_BLOCKS, **OF_CAPTIONS}
# Each of these is a case of another, with a queue or with captions.
SPECIAL = ("info_nce", "info_nce_two_sided", "clip", "siglip")
ALL = {**CHUNKED, **WHOLE, **OF_LABELS, **OF_VIEWS}


QUICK = {"xla_backend_optimization_level": 0}  # most of the time of these tests is the compiler's
VALID = jnp.arange(B) % 4 != 2
ALL_VALID = jnp.ones(B, bool)


def inputs(name):
    """What the loss takes, each [B, ...]: numbers that bfloat16 holds; the second views are like the first."""
    shape = (B, 3, K) if name in OF_VIEWS else (B, E)
    a = wave(1, shape)
    b = a + 0.8 * wave(500, shape)
    labels = [CAPTIONS] if name in OF_CAPTIONS or name in OF_LABELS else []
    return [*(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32) for x in (a, b)), *labels]


@functools.cache
def compiled(name, **options):
    """(arrays, valid) -> the loss, and its gradients in both embeddings."""

    def loss(a, b, rest, valid):
        return ALL[name](a, b, *rest, valid=valid, **options)

    step = jax.jit(jax.value_and_grad(loss, (0, 1)), compiler_options=QUICK)
    return lambda arrays, valid=ALL_VALID: step(*arrays[:2], arrays[2:], valid)


def assert_equal(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@pytest.mark.parametrize("name", ALL)
def test_rows_that_do_not_count_change_nothing(name):
    arrays = inputs(name)
    spoilt = [jnp.where(jnp.expand_dims(VALID, range(1, x.ndim)), x, jnp.nan) for x in arrays[:2]]
    value, grads = compiled(name)(spoilt + arrays[2:], VALID)
    kept = np.flatnonzero(VALID)
    a, b, *rest = [x[kept] for x in arrays]
    wanted, wanted_grads = compiled(name)([a, b, *rest], ALL_VALID[kept])
    assert_equal(value, wanted)
    assert_equal(tuple(g[kept] for g in grads), wanted_grads)
    assert all(jnp.all(g[2::4] == 0) for g in grads)
    assert max(jnp.max(jnp.abs(g)) for g in wanted_grads) > 1e-4


@pytest.mark.parametrize("name", ALL)
def test_without_a_row_that_counts_the_gradient_is_zero(name):
    value, grads = compiled(name)(inputs(name), ~ALL_VALID)
    assert jnp.isfinite(value)
    assert all(jnp.all(g == 0) for g in grads)


@pytest.mark.parametrize("name", ALL)
def test_bfloat16_is_reduced_in_float32(name):
    a, b, *rest = inputs(name)
    value = jax.jit(ALL[name], compiler_options=QUICK)(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), *rest)
    assert value.dtype == jnp.float32
    assert_equal(value, compiled(name)([a, b, *rest])[0])


@pytest.mark.parametrize("name", [name for name in CHUNKED if name not in SPECIAL])
def test_blocks_give_the_value_and_gradient_of_the_whole(name):
    assert_equal(compiled(name, chunks=4)(inputs(name), VALID), compiled(name)(inputs(name), VALID))


@pytest.mark.parametrize("name", CHUNKED)
def test_blocks_that_do_not_divide_the_batch_are_refused(name):
    with pytest.raises(
        UserError, match=r"config\.batch_size=16 must be a multiple of 3 \(config\.loss_chunks=3\)"
    ):
        jax.eval_shape(lambda *arrays: ALL[name](*arrays, chunks=3), *inputs(name))


@pytest.mark.parametrize("name", [name for name in ALL if name not in SPECIAL])
def test_eight_devices_equal_one(name):
    mesh = sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))
    options = {"chunks": 2} if name in CHUNKED else {}
    with sharding.use(mesh):
        spread = jax.device_put([*inputs(name), VALID], NamedSharding(mesh, P(sharding.BATCH_AXES)))
        found = compiled(name, **options)(spread[:-1], spread[-1])
    assert all(len(g.sharding.device_set) == 8 for g in found[1])
    assert_equal(found, compiled(name)(inputs(name), VALID))


@pytest.mark.parametrize(
    "name", ["nt_xent", "info_nce_two_sided", "clip", "siglip", "barlow_twins", "vicreg"]
)
def test_the_two_sides_are_alike(name):
    a, b = inputs(name)
    (value, (grad_a, grad_b)), swapped = compiled(name)([a, b]), compiled(name)([b, a])
    assert_equal(swapped, (value, (grad_b, grad_a)))


@pytest.mark.parametrize("name", [*CHUNKED, "unit_regression", "negative_cosine"])
def test_lengths_of_embeddings_do_not_matter(name):
    a, b, *rest = inputs(name)
    assert_equal(compiled(name)([3 * a, 0.2 * b, *rest])[0], compiled(name)([a, b, *rest])[0])


def compiled_for_many(name, x):
    """The step for 32768 embeddings in 64 blocks, which one matrix of all pairs would make 4 GiB larger."""
    step = jax.jit(jax.value_and_grad(lambda a, b: ALL[name](a, b, chunks=64), (0, 1)))
    return step.lower(x, x).compile()


@pytest.mark.parametrize("name", ["nt_xent", "clip", "siglip"])
def test_no_matrix_of_all_pairs_is_in_the_compiled_step(name):
    step = compiled_for_many(name, jax.ShapeDtypeStruct((32768, 128), jnp.float32))
    assert not re.search(r"\[(32768|65536),(32768|65536)\]", step.as_text())
    assert "[512,32768]" in step.as_text()
    assert step.memory_analysis().temp_size_in_bytes < 2**29


def test_over_devices_a_block_travels_and_the_rest_stays():
    """Each of eight devices compares the anchors of a block with its own keys, whose gradient then stays there too."""
    mesh = sharding.make_mesh(dict(data=1, fsdp=8, tensor=1))
    spread = NamedSharding(mesh, P(sharding.BATCH_AXES))
    with sharding.use(mesh):
        step = compiled_for_many("clip", jax.ShapeDtypeStruct((32768, 128), jnp.float32, sharding=spread))
    moved = re.findall(r"= (\w+\[[\d,]*\])\S* (?:all-gather|all-reduce|all-to-all)\(", step.as_text())
    assert (
        set(moved) <= {"f32[512,128]", "f32[512]", "s32[512]", "f32[]", "s32[]"} and "f32[512,128]" in moved
    )
    assert step.memory_analysis().temp_size_in_bytes < 2**26
