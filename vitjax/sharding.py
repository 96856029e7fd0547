"""Where arrays live: the mesh, and a sharding for every leaf from its path and shape.

Losses and models are written for the global batch and know nothing of devices; the one thing that models
import from here is `constrain`. Parameters are sharded over `fsdp` by default: nobody has to list them.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Int

from vitjax import trees
from vitjax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
HOST_KEYS = ("index", "bad_index")

# A smaller leaf is replicated: gathering it costs more time than its memory is worth.
MIN_SIZE = 2**14

# Path -> the axis, counted from the end, that the `tensor` axis of the mesh splits. Columns first, rows
# after, so that each attention and each MLP needs one all-reduce (Megatron-LM, arXiv:1909.08053, section 3).
# A piece of the columns of qkv would be no set of heads: it is stored by rows, and its pieces change hands
# (an all-to-all of the kernel, which is less than activations) when it is used, see `models.vit.Qkv`.
Rules = Sequence[tuple[str, int]]
TENSOR_RULES: Rules = (
    (r"attention/qkv/kernel$", -2),
    (r"attention/out/kernel$", -2),
    (r"mlp/fc1/(kernel|bias)$", -1),
    (r"mlp/fc2/kernel$", -2),
)


def make_mesh(mesh_config: Any, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh with axes data, fsdp and tensor over `devices` (all there are, by default).

    Raises:
      UserError: the sizes do not fill the devices, or more than one is -1.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [int(mesh_config[axis]) for axis in AXES]
    given = ", ".join(f"config.mesh.{axis}={size}" for axis, size in zip(AXES, sizes))
    if any(size != -1 and size < 1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(f"{given}: each must be at least 1, and at most one may be -1 (what is left)")
    known = math.prod(size for size in sizes if size != -1)
    if len(devices) % known or (-1 not in sizes and known != len(devices)):
        raise UserError(
            f"{given} do not fit {len(devices)} device(s): their product must be {len(devices)}; "
            f"try config.mesh.data=1 config.mesh.fsdp=-1 config.mesh.tensor=1"
        )
    shape = tuple(len(devices) // known if size == -1 else size for size in sizes)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


@contextlib.contextmanager
def use(mesh: Mesh) -> Iterator[Mesh]:
    """Makes `mesh` the one that `constrain` speaks of; functions must be traced and called inside."""
    with jax.set_mesh(mesh):
        yield mesh


def constrain(x: Any, kind: str) -> Any:
    """`x` held to a sharding inside a jitted function.

    'batch' splits axis 0 over data and fsdp, 'heads' the last axis but one over tensor, and 'params' follows
    the rules. Returns `x` itself where no mesh is in use, and for 'batch' where axis 0 does not divide (the
    single example that initialisation runs on).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(AXES) <= set(mesh.axis_names):
        return x
    if kind == "params":
        specs = _specs({f"params/{path}": leaf for path, leaf in trees.flatten(x).items()}, mesh.shape)
        return trees.map_with_path(
            lambda path, leaf: jax.lax.with_sharding_constraint(leaf, specs[f"params/{path}"]), x
        )
    if kind == "heads":
        return jax.lax.with_sharding_constraint(x, P(*(None,) * (x.ndim - 2), "tensor"))
    if kind != "batch":
        raise ValueError(f"constrain(x, {kind!r}): the kinds are 'batch', 'heads' and 'params'")
    if x.shape[0] % _shards(mesh):
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH_AXES))


def shards_in_use() -> int:
    """Into how many parts the mesh in use splits a batch; 1 where there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or not set(AXES) <= set(mesh.axis_names) else _shards(mesh)


def splits_heads(heads: int) -> bool:
    """Whether the mesh in use has a tensor axis that divides so many heads."""
    mesh = jax.sharding.get_abstract_mesh()
    tensor = 1 if mesh.empty else dict(mesh.shape).get("tensor", 1)
    return tensor > 1 and heads % tensor == 0


def shardings(tree: Any, mesh: Mesh, rules: Rules = TENSOR_RULES, min_size: int = MIN_SIZE) -> Any:
    """A tree like `tree` (a State, of arrays or ShapeDtypeStructs) with the sharding of each leaf.

    Leaves below `params` go by the rules. Any other leaf (optimiser slot, EMA copy) whose path ends in a
    parameter's path and whose shape is equal takes that parameter's sharding; the rest go by their own
    shape: the largest axis that `fsdp` divides is split, and never the depth of stacked blocks.
    """
    specs = _specs(trees.flatten(tree), mesh.shape, rules, min_size)
    return trees.map_with_path(lambda path, _: NamedSharding(mesh, specs[path]), tree)


def abstract(tree: Any, mesh: Mesh) -> Any:
    """`tree` as ShapeDtypeStructs that carry the sharding of each leaf."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings(tree, mesh)
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0 over data and fsdp, everything else whole."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds all of it."""
    return NamedSharding(mesh, P())


def check_batch_size(batch_size: int, mesh: Mesh, accum: int = 1) -> None:
    """Nothing, if each device gets the same number of whole pictures in every micro-batch.

    Raises:
      UserError: it does not; the message names the nearest sizes that do.
    """
    unit = _shards(mesh) * accum
    if batch_size < 1:
        raise UserError(f"config.batch_size={batch_size} must be at least 1; try {unit}")
    if batch_size % unit:
        below, above = batch_size // unit * unit, (batch_size // unit + 1) * unit
        near = f"{below} or {above}" if below > 0 else f"{above}"
        parts = f"{_shards(mesh)} shards (config.mesh.data x config.mesh.fsdp)"
        parts += f" x config.accum={accum}" if accum > 1 else ""
        raise UserError(f"config.batch_size={batch_size} is not divisible by {unit} = {parts}; try {near}")


def local_rows(mesh: Mesh, batch_size: int) -> Int[np.ndarray, " rows"]:
    """The rows of a global batch that this process loads, in order; right also if `tensor` spans hosts.

    Raises:
      UserError: the mesh does not divide `batch_size`.
    """
    check_batch_size(batch_size, mesh)
    spans = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    starts = {span[0].indices(batch_size)[:2] for span in spans}
    return np.concatenate([np.arange(*span) for span in sorted(starts)])


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The global arrays of a batch of which this process holds `local_rows`.

    What stays on the host (record numbers, arrays of objects) is left out. On the CPU an array may share
    its memory with the numpy array that it came from: do not write to that afterwards.
    """
    sent = {k: np.asarray(v) for k, v in batch.items() if k not in HOST_KEYS}
    sent = {k: v for k, v in sent.items() if v.dtype != object}
    if jax.process_count() == 1:
        return jax.device_put(sent, batch_sharding(mesh))
    return {key: _global_array(value, mesh) for key, value in sent.items()}


def _global_array(local: np.ndarray, mesh: Mesh) -> jax.Array:
    """The array whose `local_rows` are `local`."""
    shards = _shards(mesh)
    batch_size = len(local) // len(local_rows(mesh, shards)) * shards
    rows = local_rows(mesh, batch_size)

    def piece(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(batch_size)
        at = int(np.searchsorted(rows, start))
        return local[at : at + stop - start]

    return jax.make_array_from_callback((batch_size, *local.shape[1:]), batch_sharding(mesh), piece)


def _shards(mesh: Any) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def _specs(
    flat: Mapping[str, Any],
    sizes: Mapping[str, int],
    rules: Rules = TENSOR_RULES,
    min_size: int = MIN_SIZE,
) -> dict[str, P]:
    """Path -> PartitionSpec for a whole state; parameters are the paths that begin with 'params/'."""
    prefix = "params/"
    params = {path[len(prefix) :]: leaf.shape for path, leaf in flat.items() if path.startswith(prefix)}
    out = {}
    for path, leaf in flat.items():
        owner = _owner(path, leaf.shape, params)
        out[path] = _spec(path if owner is None else owner, leaf.shape, sizes, rules, min_size)
    return out


def _owner(path: str, shape: tuple[int, ...], params: Mapping[str, tuple[int, ...]]) -> str | None:
    """The parameter that a slot or a copy belongs to: the longest that its path ends in, of equal shape."""
    parts = path.split("/")
    tails = ("/".join(parts[i:]) for i in range(len(parts)))
    return next((tail for tail in tails if params.get(tail) == tuple(shape)), None)


def _spec(path: str, shape: tuple[int, ...], sizes: Mapping[str, int], rules: Rules, min_size: int) -> P:
    """The PartitionSpec of one leaf: first the tensor rule, then fsdp on the largest axis that is left."""
    first = 1 if trees.is_stacked(path) else 0
    if math.prod(shape[first:]) < min_size:
        return P()
    spec: list[str | None] = [None] * len(shape)
    tensor = next((len(shape) + axis for pattern, axis in rules if re.search(pattern, path)), None)
    if tensor in _divisible(shape, first, sizes["tensor"]):
        spec[tensor] = "tensor"
    free = [i for i in _divisible(shape, first, sizes["fsdp"]) if spec[i] is None]
    if free:
        spec[max(free, key=lambda i: shape[i])] = "fsdp"
    while spec and spec[-1] is None:
        spec.pop()
    return P(*spec)


def _divisible(shape: tuple[int, ...], first: int, parts: int) -> list[int]:
    """The axes from `first` on that can be split into `parts`; none where there is nothing to split."""
    return [i for i in range(first, len(shape)) if parts > 1 and shape[i] % parts == 0]
