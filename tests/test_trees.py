"""Paths, and blocks under the names of single blocks."""

import jax.numpy as jnp
import numpy as np

from vitjax import trees

FLAT = {"params/blocks/mlp/kernel": np.arange(12.0).reshape(3, 2, 2), "params/head/bias": np.ones(2)}


def test_unflatten_inverts_flatten():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert trees.flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert trees.unflatten(trees.flatten(tree)) == tree


def test_stack_inverts_unstack_to_the_bit():
    single = trees.unstack(FLAT)
    assert sorted(single) == [
        "params/block_00/mlp/kernel", "params/block_01/mlp/kernel", "params/block_02/mlp/kernel",
        "params/head/bias",
    ]  # fmt: skip
    again = trees.stack(single, FLAT)
    assert again.keys() == FLAT.keys()
    np.testing.assert_array_equal(again["params/blocks/mlp/kernel"], FLAT["params/blocks/mlp/kernel"])


def test_stack_leaves_single_blocks_alone_where_nobody_asks_for_a_stack():
    single = trees.unstack(FLAT)
    assert trees.stack(single, single).keys() == single.keys()


def test_more_than_a_hundred_blocks_keep_their_order():
    flat = {"blocks/w": np.arange(120.0)[:, None]}
    np.testing.assert_array_equal(trees.stack(trees.unstack(flat), flat)["blocks/w"], flat["blocks/w"])


def test_map_with_path_names_leaves_of_tuples_and_dicts():
    seen = []
    trees.map_with_path(lambda path, x: seen.append(path), {"a": (jnp.zeros(1), {"b": jnp.zeros(1)})})
    assert seen == ["a/0", "a/1/b"]
