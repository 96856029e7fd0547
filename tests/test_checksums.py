import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vitjax import checksums

TYPES = ["float32", "bfloat16", "float16", "float8_e4m3fn", "int32", "int16", "int8", "uint32", "uint8", "bool"]
SHAPES = [(), (0,), (3, 0), (1,), (7,), (16, 6), (8, 3, 5)]


def drawn(shape, dtype, seed=0):
    """Any bits at all, NaN and infinity among them."""
    dtype = np.dtype(jnp.dtype(dtype))
    rng = np.random.default_rng(seed)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    data = rng.integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    return np.ascontiguousarray(data).view(dtype).reshape(shape)


def on_device(x) -> int:
    return int(checksums.of_tree({"x": x})[1][0])


def flipped(x, bit):
    """A copy of `x` with one bit of its memory changed."""
    data = np.frombuffer(x.tobytes(), np.uint8).copy()
    data[bit // 8] ^= 1 << bit % 8
    return data.view(x.dtype).reshape(x.shape)


@pytest.mark.parametrize("dtype", TYPES)
def test_numpy_and_jax_give_the_same_number(dtype):
    for shape in SHAPES:
        x = drawn(shape, dtype)
        assert on_device(jnp.asarray(x)) == checksums.of_host(x), shape


def test_the_number_of_an_array_never_changes():
    """What is on the disk has to be understood by later versions: this pins the formula."""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    index = np.arange(12, dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    h = (index * np.uint64(0x9E3779B1)) & mask
    h = ((h ^ (h >> np.uint64(15))) * np.uint64(0x85EBCA6B)) & mask
    h = (h ^ (h >> np.uint64(13))) | np.uint64(1)
    expected = int(sum(int(b) * int(w) for b, w in zip(x.view(np.uint32).ravel(), h)) % 2**32)
    assert checksums.of_host(x) == expected == PINNED


PINNED = 2445279232


@pytest.mark.parametrize("dtype", [t for t in TYPES if t != "bool"] + ["float64", "int64", "complex64"])
def test_every_flipped_bit_changes_the_number(dtype):
    x = drawn((3, 5), dtype)
    numbers = {checksums.of_host(flipped(x, bit)) for bit in range(8 * x.nbytes)}
    assert checksums.of_host(x) not in numbers


def test_every_flipped_bool_changes_the_number():
    x = drawn((40,), "bool")
    for i in range(x.size):
        changed = x.copy()
        changed[i] ^= True
        assert on_device(jnp.asarray(changed)) != on_device(jnp.asarray(x))


def test_every_flipped_bit_changes_the_number_on_the_device():
    x = drawn((2, 3), "bfloat16")
    flips = [jnp.asarray(flipped(x, bit)) for bit in range(8 * x.nbytes)]
    assert on_device(jnp.asarray(x)) not in checksums.of_tree(flips)[1].tolist()


@pytest.mark.parametrize("sizes", [(8, 1), (2, 4), (2, 1), (1, 1)])
def test_every_mesh_gives_the_same_number(sizes):
    devices = jax.devices()[: sizes[0] * sizes[1]]
    mesh = jax.make_mesh(sizes, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices)
    specs = [P("data"), P(None, "fsdp"), P("fsdp", "data"), P(("data", "fsdp")), P(None, ("fsdp", "data")), P()]
    x = {dtype: drawn((16, 24), dtype) for dtype in ("float32", "bfloat16", "uint8")}
    placed = {str(spec): jax.device_put(x, NamedSharding(mesh, spec)) for spec in specs}
    paths, sums = checksums.of_tree(placed)
    for path, number in zip(paths, sums.tolist()):
        assert number == checksums.of_host(x[path.split("/")[-1]]), path


def test_no_array_is_gathered_and_devices_speak_once():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, P("fsdp"))
    x = jax.device_put(drawn((16, 24), "float32"), rows)
    program = jax.jit(lambda x: checksums.parts(x, rows)).lower(x).compile().as_text()
    assert not [word for word in ("all-gather", "all-to-all", "all-reduce", "permute") if word in program]


def test_keys_and_wide_numbers_are_summed_on_every_mesh():
    mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    keys = jax.device_put(jax.random.split(jax.random.key(3), 8), NamedSharding(mesh, P("fsdp")))
    assert on_device(keys) == checksums.of_host(np.asarray(jax.random.key_data(keys)))
    z = drawn((8, 3), "complex64")
    assert on_device(jax.device_put(z, NamedSharding(mesh, P("fsdp")))) == checksums.of_host(z)
    with jax.enable_x64(True):
        x = drawn((8, 3), "float64")
        assert on_device(jax.device_put(x, NamedSharding(mesh, P("fsdp")))) == checksums.of_host(x)


def test_moved_elements_change_the_number():
    x = drawn((64,), "float32")
    swaps = [(i, j) for i in range(64) for j in range(i)]
    for i, j in swaps:
        changed = x.copy()
        changed[[i, j]] = changed[[j, i]]
        assert checksums.of_host(changed) != checksums.of_host(x)
    assert checksums.of_host(x.reshape(8, 8).T) != checksums.of_host(x.reshape(8, 8))


def test_long_arrays_are_summed_in_chunks():
    x = drawn((3 * checksums.CHUNK + 5,), "float32")
    assert checksums.of_host(x) == on_device(jnp.asarray(x))
    wide = drawn((checksums.CHUNK + 3,), "float64")
    assert checksums.of_host(wide) == checksums.of_host(wide.view(np.uint32))


def test_typed_keys_count_by_their_data():
    keys = jax.random.split(jax.random.key(3), 5)
    assert on_device(keys) == checksums.of_host(np.asarray(jax.random.key_data(keys)))


def test_numbers_of_four_bits_have_one():
    x = np.arange(-8, 8).astype(ml_dtypes.int4)
    assert on_device(jnp.asarray(x)) == checksums.of_host(x) != checksums.of_host(x[::-1])


def test_a_tree_gives_its_paths_and_one_array():
    tree = {"b": {"w": jnp.ones((2, 3))}, "a": [jnp.arange(3), jnp.zeros(())]}
    paths, sums = checksums.of_tree(tree)
    assert paths == ["a/0", "a/1", "b/w"] and sums.shape == (3,) and sums.dtype == jnp.uint32
    assert [checksums.of_host(np.asarray(x)) for x in jax.tree.leaves(tree)] == sums.tolist()
    assert checksums.of_tree({})[1].shape == (0,)
