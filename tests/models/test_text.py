import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_towers

from vitjax import trees
from vitjax.errors import UserError
from vitjax.models import text

IDS = jnp.asarray([[9, 5, 63, 7, 63, 0], [9, 1, 2, 3, 4, 63]])


def build(family="clip", dtype=jnp.float32, **changes):
    return text.make(tiny_towers.config(family, text=changes).text, dtype)


def features(module, variables, ids):
    return jax.jit(module.apply)(variables, ids)["features"]


@pytest.mark.parametrize("pool, wanted", [("argmax", [2, 5]), ("eos", [3, 0]), ("last", [5, 5])])
def test_the_first_token_that_qualifies_stands_for_the_text(pool, wanted):
    assert text.pooled_at(IDS, pool, eos_id=7).tolist() == wanted


def test_the_features_are_the_normalised_token_at_that_place():
    module = build()
    out, _ = jax.jit(module.init_with_output)(jax.random.key(0), IDS)
    np.testing.assert_array_equal(out["features"], np.asarray(out["tokens"])[[0, 1], [2, 5]])


def test_what_follows_the_end_of_text_changes_nothing_in_a_causal_tower():
    module, other = build(), IDS.at[0, 3:].set(11)
    variables = jax.jit(module.init)(jax.random.key(0), IDS)
    np.testing.assert_array_equal(features(module, variables, IDS), features(module, variables, other))
    both_ways = build(causal=False)
    assert not np.allclose(features(both_ways, variables, IDS)[0], features(both_ways, variables, other)[0])


def test_scanned_blocks_compute_the_same():
    plain, scanned = build(), build(scan=True, remat=True)
    variables = jax.jit(plain.init)(jax.random.key(0), IDS)
    wanted = trees.flatten(jax.eval_shape(scanned.init, jax.random.key(0), IDS))
    stacked = trees.unflatten(trees.stack(trees.flatten(variables), wanted))
    np.testing.assert_allclose(
        features(scanned, stacked, IDS), features(plain, variables, IDS), atol=1e-5, rtol=1e-5
    )


def test_features_are_float32_in_half_precision_too():
    out = jax.eval_shape(build(dtype=jnp.bfloat16).init_with_output, jax.random.key(0), IDS)[0]
    assert (out["features"].dtype, out["tokens"].dtype) == (jnp.float32, jnp.bfloat16)


@pytest.mark.parametrize(
    "inits, path, wanted",
    [
        ("clip", "embedding", 0.02),
        ("clip", "position", 0.01),
        ("clip", "block_00/attention/qkv/kernel", 64**-0.5),
        ("clip", "block_00/attention/out/kernel", 64**-0.5 * 4**-0.5),
        ("clip", "block_00/mlp/fc1/kernel", 128**-0.5),
        ("clip", "block_00/mlp/fc2/kernel", 64**-0.5 * 4**-0.5),
        ("xavier", "embedding", 64**-0.5),
        ("xavier", "block_00/attention/out/kernel", 64**-0.5),
    ],
)
def test_weights_begin_with_the_published_deviation(inits, path, wanted):
    flat = initial(inits)
    assert flat[path].std() == pytest.approx(wanted, rel=0.08)


def initial(inits, cache={}):  # noqa: B006
    if inits not in cache:
        module = build(inits=inits, width=64, mlp_dim=256)
        cache[inits] = trees.flatten(jax.jit(module.init)(jax.random.key(0), IDS)["params"])
    return cache[inits]


@pytest.mark.parametrize(
    "changes, match",
    [
        (dict(pool="mean"), "config.text.pool='mean' is not known; choose from argmax, eos, last"),
        (dict(inits="zero"), "config.text.inits='zero' is not known; choose from clip, xavier"),
        (dict(activation="relu"), "config.text.activation='relu' is not known"),
        (dict(heads=3), "config.text.heads=3 must divide config.text.width=16"),
        (dict(eos_id=64), "config.text.eos_id=64 must be an id below config.text.vocab_size=64"),
        (dict(attention="cudnn"), "config.text.attention='cudnn' computes in bfloat16 only"),
    ],
)
def test_a_wrong_setting_is_named(changes, match):
    with pytest.raises(UserError, match=match):
        build(**changes)
