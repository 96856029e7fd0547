"""Trees of arrays as flat dicts of paths, and blocks stacked for `scan` under the names of single blocks.

A scanned stack of transformer blocks keeps each kind of weight as one leaf whose first axis is depth,
below a path component named `blocks`. The optimiser, the sharding rules and everything that leaves the
program must not see that: this file is the one place that knows.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

STACK = "blocks"
_BLOCK = re.compile(r"^block_(\d+)$")


def flatten(tree: Any) -> dict[str, Any]:
    """Path -> leaf, the parts of a path joined by '/'."""
    return {path_str(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dicts whose `flatten` is `flat`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def path_str(path: Iterable[Any]) -> str:
    """A jax key path as 'a/b/c'."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def map_with_path(fn, tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` whose function gets the path 'a/b/c' as its first argument."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: fn(path_str(path), *leaves), tree, *rest)


def is_stacked(path: str) -> bool:
    """Whether the leaf at `path` holds all blocks of a stack, depth first."""
    return STACK in path.split("/")


def block_name(index: int) -> str:
    """The name of one block: block_00, block_01, ..."""
    return f"block_{index:02d}"


def unstack(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`flat` with every stacked leaf split into one leaf a block: 'x/blocks/y' -> 'x/block_00/y', ..."""
    out: dict[str, Any] = {}
    for path, leaf in flat.items():
        if not is_stacked(path):
            out[path] = leaf
            continue
        for i in range(leaf.shape[0]):
            out[_rename(path, STACK, block_name(i))] = _row(leaf, i)
    return out


def stack(flat: Mapping[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
    """`flat` with single blocks stacked where the path of a stacked leaf is in `wanted`.

    Leaves that are stacked already, or that nothing in `wanted` asks to stack, pass unchanged.
    """
    wanted = set(wanted)
    out: dict[str, Any] = {}
    groups: dict[str, dict[int, Any]] = {}
    for path, leaf in flat.items():
        target, index = _stacked_path(path)
        if target in wanted and path not in wanted:
            groups.setdefault(target, {})[index] = leaf
        else:
            out[path] = leaf
    for target, rows in groups.items():
        out[target] = np.stack([np.asarray(rows[i]) for i in sorted(rows)])
    return out


def _stacked_path(path: str) -> tuple[str | None, int]:
    """The stacked name and depth of a single block's leaf, or (None, -1)."""
    parts = path.split("/")
    for at, part in enumerate(parts):
        match = _BLOCK.match(part)
        if match:
            return "/".join([*parts[:at], STACK, *parts[at + 1 :]]), int(match.group(1))
    return None, -1


def _rename(path: str, old: str, new: str) -> str:
    return "/".join(new if part == old else part for part in path.split("/"))


def _row(leaf: Any, index: int) -> Any:
    """Row `index` of an array, or of the shape of one."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
    return leaf[index]
