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


def test_what_is_frozen_leaves_the_slots_empty():
    tx = made("adamw", frozen=("patch",))
    _, slots = jax.jit(lambda g, p: tx.update(g, tx.init(p), p, step=0))(GRADS[0], PARAMS)
    for path, x in trees.flatten(slots).items():
        if path.startswith(("0/mu", "0/nu")):
            assert np.any(np.asarray(x)) == ("patch" not in path), path


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
