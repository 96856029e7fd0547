"""Checksums of arrays that any single flipped bit changes, equal on every mesh and in numpy.

The sum over all elements of (bits of the element, as an unsigned integer) times an odd hash of the element's
place, modulo 2^32. Whatever changes in one element changes the sum: a difference below 2^32 times an odd number
is not a multiple of 2^32. The hash tells places apart, so that swapped elements are seen too. Wrapping integer
sums do not depend on the order of summation, which float sums do: every device sums its own part, and nothing is
gathered.
"""

import functools
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


def of_leaf(x: Any) -> UInt32[Array, ""]:
    """The checksum of one array, or of a typed key's data; to be called inside jit, under any sharding."""
    words = _words(x)
    index = jnp.zeros(words.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        place = lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        index = index + place * np.uint32(stride % MODULUS)
        stride *= words.shape[axis]
    return jnp.sum(words * _odd_hash(index), dtype=jnp.uint32)


def of_tree(tree: Any) -> tuple[list[str], UInt32[Array, " leaves"]]:
    """The paths of the leaves, and their checksums as one array on the device."""
    flat = trees.flatten(tree)
    return list(flat), stacked([_of_leaf(x) for x in flat.values()])


def stacked(sums: list[UInt32[Array, ""]]) -> UInt32[Array, " leaves"]:
    """Scalars as one array that each process holds all of, so that fetching them waits for the device once."""
    if not sums:
        return jnp.zeros((0,), jnp.uint32)
    return _stack(next((whole for x in sums if (whole := replicated(x.sharding))), None))(sums)


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


def replicated(sharding: Sharding) -> NamedSharding | None:
    """The sharding that puts all of an array on each device of the same mesh; None where there is no mesh."""
    return NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else None


# A program for each shape instead of one for the whole tree: it compiles ten times as fast.
_of_leaf = jax.jit(of_leaf)


@functools.lru_cache
def _stack(whole: NamedSharding | None) -> Any:
    return jax.jit(jnp.stack, out_shardings=whole)


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
