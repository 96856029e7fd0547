"""Checksums of arrays that any single flipped bit changes, equal on every mesh and in numpy.

The sum over all elements of (bits of the element, as an unsigned integer) times an odd hash of the element's
place, modulo 2^32. Whatever changes in one element changes the sum: a difference below 2^32 times an odd number
is not a multiple of 2^32. The hash tells places apart, so that swapped elements are seen too. Wrapping integer
sums do not depend on the order of summation, which float sums do: every device sums its own part, and nothing is
gathered.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, UInt32

from vitjax import trees

MODULUS = 2**32
# Words that numpy works on at a time: a few arrays of them fit into a core's cache.
CHUNK = 2**16
_NARROW = ("int2", "uint2", "int4", "uint4")


def of_tree(tree: Any) -> tuple[list[str], UInt32[Array, " leaves"]]:
    """The paths of the leaves, and their checksums as one array on the device."""
    flat = trees.flatten(tree)
    return list(flat), combined([_compiled(_sharding(x))(x) for x in flat.values()])


def parts(x: Any, sharding: Sharding | None) -> UInt32[Array, " devices"]:
    """What each device adds to the checksum of an array that is sharded so; to be called inside jit.

    Devices say nothing to each other here: that is left to `combined`, which does it once for all leaves.
    """
    if not isinstance(sharding, NamedSharding):
        return _of_block(x, (0,) * x.ndim, x.shape)[None]
    mesh, spec = sharding.mesh, tuple(sharding.spec) + (None,) * (x.ndim - len(sharding.spec))
    axes = [() if entry is None else entry if isinstance(entry, tuple) else (entry,) for entry in spec]
    copies = tuple(axis for axis in mesh.axis_names if axis not in {used for entry in axes for used in entry})

    def of_shard(block: Any) -> UInt32[Array, " 1"]:
        start = [lax.axis_index(used) * size if used else 0 for used, size in zip(axes, block.shape)]
        number = _of_block(block, start, x.shape)
        # Of the devices that hold the same block, one counts.
        return jnp.where(lax.axis_index(copies) == 0 if copies else True, number, jnp.uint32(0))[None]

    everywhere = PartitionSpec(mesh.axis_names)
    return jax.shard_map(of_shard, mesh=mesh, in_specs=sharding.spec, out_specs=everywhere, check_vma=False)(x)


def combined(parts: list[UInt32[Array, " devices"]]) -> UInt32[Array, " leaves"]:
    """The checksums of leaves from the parts of each, whole on each process: one fetch, one wait for the device."""
    if not parts:
        return jnp.zeros((0,), jnp.uint32)
    sharding = parts[0].sharding
    return _combine(NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else None)(
        parts
    )


def of_host(x: np.ndarray) -> int:
    """The checksum of an array on the host, the same number; it needs memory for CHUNK words."""
    flat = np.asarray(x).reshape(-1)
    step = max(1, CHUNK // max(1, flat.itemsize // 4))
    total = first = 0
    for start in range(0, flat.size, step):
        words = _host_words(flat[start : start + step])
        index = np.arange(first, first + words.size, dtype=np.uint64).astype(np.uint32)
        total += int(np.sum(words * _odd_hash(index), dtype=np.uint32))
        first += words.size
    return total % MODULUS


# A program for each shape instead of one for the whole tree: it compiles ten times as fast.
@functools.lru_cache
def _compiled(sharding: Sharding | None) -> Any:
    return jax.jit(functools.partial(parts, sharding=sharding))


@functools.lru_cache
def _combine(whole: Sharding | None) -> Any:
    return jax.jit(lambda parts: jnp.sum(jnp.stack(parts), axis=1, dtype=jnp.uint32), out_shardings=whole)


def _sharding(x: Any) -> Sharding | None:
    return x.sharding if isinstance(x, jax.Array) else None


def _of_block(x: Any, start: Sequence[Any], shape: Sequence[int]) -> UInt32[Array, ""]:
    """The part that a block of an array has in its checksum; the block lies at `start` in an array of `shape`."""
    words = _words(x)
    more = words.shape[x.ndim :]
    start, shape = (*start, *(0 for _ in more)), (*shape, *more)
    index = jnp.zeros(words.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        place = lax.broadcasted_iota(jnp.uint32, words.shape, axis) + jnp.uint32(start[axis])
        index = index + place * np.uint32(stride % MODULUS)
        stride *= shape[axis]
    return jnp.sum(words * _odd_hash(index), dtype=jnp.uint32)


def _odd_hash(index: Any) -> Any:
    """An odd number for each place, of numpy or of jax: uint32 in, uint32 out."""
    x = index * np.uint32(0x9E3779B1)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x85EBCA6B)
    return (x ^ (x >> np.uint32(13))) | np.uint32(1)


def _words(x: Any) -> UInt32[Array, "..."]:
    """The bits of each element as uint32; elements of 64 bits get a last axis of two words."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if x.dtype == jnp.bool_ or x.dtype.name in _NARROW:
        x = x.astype(jnp.int8)
    bits = min(32, 8 * x.dtype.itemsize)
    return lax.bitcast_convert_type(x, jnp.dtype(f"uint{bits}")).astype(jnp.uint32)


def _host_words(x: np.ndarray) -> np.ndarray:
    """`_words` of a flat array, flattened."""
    if x.dtype.name in _NARROW:
        x = x.astype(np.int8)
    bits = min(32, 8 * x.dtype.itemsize)
    return np.ascontiguousarray(x).view(f"uint{bits}").astype(np.uint32)
