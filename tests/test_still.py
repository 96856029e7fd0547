"""What is frozen never moves, and what is held moves as if the optimiser began when it is let go."""

import jax
import numpy as np
import pytest
from descent import RUN, config_of, descend

from vitjax import optim, trees
from vitjax.errors import UserError

OPTIMISERS = {
    "adamw": dict(name="adamw", b2=0.999),
    "sgd": dict(name="sgd"),
    "simclr": dict(name="lars", form="simclr"),
    "larc": dict(name="lars", form="larc"),
    "solo": dict(name="lars", form="solo"),
}
RNG = np.random.default_rng(0)
PARAMS = {
    "backbone": {"patch": {"kernel": RNG.normal(size=(3, 4)).astype(np.float32)}},
    "prototypes": {"kernel": RNG.normal(size=(4, 2)).astype(np.float32)},
    "mlp": {
        "kernel": RNG.normal(size=(4, 4)).astype(np.float32),
        "bias": RNG.normal(size=4).astype(np.float32),
    },
}
GRADS = [jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(np.float32), PARAMS) for _ in range(4)]


def made(rule, **settings):
    how = dict(base_lr=0.01, weight_decay=0.1, decay_vectors=True) | OPTIMISERS[rule] | settings
    return optim.make(config_of(**how), RUN)[0]


@pytest.mark.parametrize("rule", OPTIMISERS)
def test_what_is_frozen_keeps_its_bits_and_touches_nobody_else(rule):
    """Neither moved nor decayed, and its gradient, infinite here, counts in no norm."""
    grads = [trees.map_with_path(lambda p, g: g * (np.inf if "patch" in p else 1), grad) for grad in GRADS]
    new = descend(made(rule, frozen=("patch",), clip_norm=1.0), PARAMS, grads)[-1]
    np.testing.assert_array_equal(new["backbone"]["patch"]["kernel"], PARAMS["backbone"]["patch"]["kernel"])
    rest = {name: PARAMS[name] for name in ("prototypes", "mlp")}
    alone = descend(made(rule, clip_norm=1.0), rest, [{name: g[name] for name in rest} for g in GRADS])[-1]
    for path, x in trees.flatten(alone).items():
        np.testing.assert_allclose(trees.flatten(new)[path], x, rtol=1e-6, err_msg=path)


@pytest.mark.parametrize("rule", OPTIMISERS)
@pytest.mark.parametrize("held", [(), ("prototypes",)])
def test_what_is_frozen_has_no_slots_and_the_rest_has_its_own(rule, held):
    """The numbers in the slots, counters apart: one a parameter that can move, of Adam's two."""
    state = jax.eval_shape(made(rule, frozen=("patch",), held=held, held_steps=1).init, PARAMS)
    paths = {path: x for path, x in trees.flatten(state).items() if x.ndim}
    assert not [path for path in paths if "patch" in path]
    numbers = sum(x.size for name in ("prototypes", "mlp") for x in jax.tree.leaves(PARAMS[name]))
    assert sum(x.size for x in paths.values()) == numbers * (2 if rule == "adamw" else 1)


def test_a_stack_of_which_some_blocks_are_frozen_keeps_its_slots():
    params = {"blocks": {"kernel": np.ones((3, 4, 4), np.float32)}, "head": {"kernel": np.ones((4, 2), np.float32)}}
    for frozen, kept in (("block_01", 48 + 8), ("block_", 8)):
        state = jax.eval_shape(made("sgd", frozen=(frozen,)).init, params)
        assert sum(x.size for x in jax.tree.leaves(state) if x.ndim) == kept


def test_where_nothing_is_frozen_slots_have_the_names_that_they_always_had():
    names = set(trees.flatten(jax.eval_shape(made("adamw").init, PARAMS)))
    assert names == {"0/count", *(f"0/{slot}/{path}" for slot in ("mu", "nu") for path in trees.flatten(PARAMS))}


@pytest.mark.parametrize("rule", OPTIMISERS)
@pytest.mark.parametrize("length", [dict(held_steps=2), dict(held_epochs=0.08)], ids=["steps", "epochs"])
def test_what_is_held_begins_when_it_is_let_go(rule, length):
    """Empty slots, a bias correction of its own: as PyTorch does where a gradient was None."""
    path = descend(made(rule, held="^prototypes/", **length), PARAMS, GRADS)
    for before in path[:2]:
        np.testing.assert_array_equal(before["prototypes"]["kernel"], PARAMS["prototypes"]["kernel"])
    held, others = (
        {k: v for k, v in PARAMS.items() if (k == "prototypes") == want} for want in (True, False)
    )
    late = descend(made(rule), held, [{"prototypes": g["prototypes"]} for g in GRADS[2:]])[-1]
    np.testing.assert_allclose(path[-1]["prototypes"]["kernel"], late["prototypes"]["kernel"], rtol=1e-6)
    early = descend(made(rule), others, [{k: g[k] for k in others} for g in GRADS])[-1]
    for name, x in trees.flatten(early).items():
        np.testing.assert_allclose(trees.flatten(path[-1])[name], x, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("setting", ["frozen", "held", "constant_rate", "rate_scales"])
def test_a_pattern_that_names_no_parameter_is_refused(setting):
    value = (("prototype$", 0.5),) if setting == "rate_scales" else ("mlp", "prototype$")
    tx = made("sgd", **{setting: value}, held_steps=1)
    match = rf"config\.optim\.{setting}=.*no parameter's path has 'prototype\$'; the nearest are prototypes/kernel,"
    with pytest.raises(UserError, match=match):
        jax.eval_shape(tx.init, PARAMS)


def test_a_length_of_holding_without_anything_held_is_no_matter():
    (new, *_) = descend(made("sgd", held_steps=100), PARAMS, GRADS)
    assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(PARAMS)))
