"""The mesh, the sharding of every leaf, and the way of a batch onto the devices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from vitjax import sharding
from vitjax.errors import UserError


def mesh_of(data=1, fsdp=-1, tensor=1, devices=8):
    return sharding.make_mesh(ConfigDict(dict(data=data, fsdp=fsdp, tensor=tensor)), jax.devices()[:devices])


def shape_of(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def specs_of(tree, mesh, **kwargs):
    return jax.tree.map(lambda s: s.spec, sharding.shardings(tree, mesh, **kwargs))


@pytest.mark.parametrize(
    "sizes, shape",
    [((1, -1, 1), (1, 8, 1)), ((2, -1, 2), (2, 2, 2)), ((-1, 4, 1), (2, 4, 1)), ((2, 4, 1), (2, 4, 1))],
)
def test_mesh_fills_the_devices(sizes, shape):
    assert tuple(mesh_of(*sizes).shape.values()) == shape


@pytest.mark.parametrize("sizes", [(3, -1, 1), (1, 4, 1), (-1, -1, 1), (1, 0, 1), (1, -2, 1), (16, 1, 1)])
def test_mesh_that_does_not_fit_is_refused(sizes):
    with pytest.raises(UserError, match=r"config\.mesh\.data=.*config\.mesh\.tensor="):
        mesh_of(*sizes)


def test_message_of_a_wrong_mesh_counts_the_devices():
    with pytest.raises(UserError, match=r"do not fit 8 device.*config\.mesh\.fsdp=-1"):
        mesh_of(3, 1, 1)


class State(NamedTuple):
    step: object
    params: object
    opt: object
    extra: object


def state():
    params = {
        "backbone": {
            "blocks": {
                "mlp": {"fc1": {"kernel": shape_of(64, 32, 512)}},
                "norm": {"scale": shape_of(64, 32)},
            },
            "conv": {"kernel": shape_of(3, 3, 64, 128)},
        },
        "odd": shape_of(1001, 1003),
    }
    factored = {"backbone": {"conv": {"kernel": shape_of(64, 512)}}}
    opt = ({"mu": params, "nu": params, "count": shape_of()}, {"v_row": factored})
    extra = {"teacher": {"backbone": params["backbone"]}, "queue": shape_of(4096, 16)}
    return State(shape_of(), params, opt, extra)


def test_fsdp_splits_the_largest_axis_and_never_depth():
    params = specs_of(state(), mesh_of()).params
    assert params["backbone"]["conv"]["kernel"] == P(None, None, None, "fsdp")
    # Depth 64 is divisible by 8 and the largest but one: still never split.
    assert params["backbone"]["blocks"]["mlp"]["fc1"]["kernel"] == P(None, None, "fsdp")


def test_small_odd_and_scalar_leaves_are_replicated():
    specs = specs_of(state(), mesh_of())
    assert specs.step == P()
    assert specs.params["odd"] == P()
    # 64 x 32 numbers a stack, but only 32 a block.
    assert specs.params["backbone"]["blocks"]["norm"]["scale"] == P()


def test_slots_and_copies_lie_with_their_parameters():
    specs = specs_of(state(), mesh_of())
    assert specs.opt[0]["mu"] == specs.params and specs.opt[0]["nu"] == specs.params
    assert specs.extra["teacher"]["backbone"] == specs.params["backbone"]
    assert specs.extra["queue"] == P("fsdp")
    assert specs.opt[1]["v_row"]["backbone"]["conv"]["kernel"] == P(None, "fsdp")


def test_slot_takes_the_rule_of_its_parameter():
    """A rule that speaks of the parameter's place alone reaches its slots too."""
    tree = {"params": {"a": shape_of(256, 256)}, "opt": {"mu": {"a": shape_of(256, 256)}}}
    specs = specs_of(tree, mesh_of(1, 1, -1), rules=[(r"^a$", -2)])
    assert specs == {"params": {"a": P("tensor")}, "opt": {"mu": {"a": P("tensor")}}}


def test_tensor_axis_splits_columns_then_rows():
    kernels = {
        "attention": {"qkv": {"kernel": shape_of(128, 384)}, "out": {"kernel": shape_of(128, 128)}},
        "mlp": {"fc1": {"kernel": shape_of(128, 512)}, "fc2": {"kernel": shape_of(512, 128)}},
    }
    specs = specs_of({"params": {"block_00": kernels}}, mesh_of(2, 2, 2))["params"]["block_00"]
    assert specs["attention"]["qkv"]["kernel"] == P("tensor", "fsdp")
    assert specs["attention"]["out"]["kernel"] == P("tensor", "fsdp")
    assert specs["mlp"]["fc1"]["kernel"] == P("fsdp", "tensor")
    assert specs["mlp"]["fc2"]["kernel"] == P("tensor", "fsdp")


def test_batch_that_the_mesh_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"config\.batch_size=20 .* try 16 or 24"):
        sharding.local_rows(mesh_of(), 20)
    with pytest.raises(UserError, match=r"config\.batch_size=24 .*config\.accum=2; try 16 or 32"):
        sharding.check_batch_size(24, mesh_of(), accum=2)
    sharding.check_batch_size(32, mesh_of(), accum=2)


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2), (8, 1, 1), (1, 1, 8)])
def test_one_process_loads_every_row_in_order(sizes):
    np.testing.assert_array_equal(sharding.local_rows(mesh_of(*sizes), 16), np.arange(16))


def test_batch_reaches_the_devices_without_what_stays_on_the_host():
    names = np.array(["a"] * 16, dtype=object)
    host = {
        "image": np.arange(16 * 12, dtype=np.uint8).reshape(16, 2, 2, 3),
        "index": np.arange(16),
        "name": names,
    }
    mesh = mesh_of(2, 2, 2)
    batch = sharding.put_batch(host, mesh)
    assert set(batch) == {"image"}
    assert batch["image"].sharding == sharding.batch_sharding(mesh)
    np.testing.assert_array_equal(np.asarray(batch["image"]), host["image"])


def test_rows_of_several_processes_join_to_the_same_array():
    """The way that several hosts take, on one."""
    mesh = mesh_of(2, 2, 2)
    rows = np.arange(32 * 3, dtype=np.int32).reshape(32, 3)
    array = sharding._global_array(rows, mesh)
    assert array.sharding == sharding.batch_sharding(mesh)
    np.testing.assert_array_equal(np.asarray(array), rows)


def test_constrain_does_nothing_without_a_mesh():
    x = jnp.ones((3, 2))
    assert sharding.constrain(x, "batch") is x
    assert sharding.constrain({"a": x}, "params")["a"] is x


def test_constrain_splits_the_batch_in_the_mesh_in_use():
    mesh = mesh_of(2, 2, 2)
    step = jax.jit(lambda x: sharding.constrain(x * 2, "batch"))
    x = jnp.ones((8, 2))
    with sharding.use(mesh):
        assert step(x).sharding.is_equivalent_to(sharding.batch_sharding(mesh), 2)
        assert step(jnp.ones((1, 2))).shape == (1, 2)
    # The same jitted function, afterwards, is traced anew without the mesh.
    np.testing.assert_array_equal(step(np.ones((8, 2), np.float32)), 2 * np.ones((8, 2)))


def test_constrain_params_gives_the_shardings_of_the_state():
    mesh = mesh_of()
    params = {"kernel": jnp.ones((128, 256)), "bias": jnp.ones(256)}
    wanted = sharding.shardings({"params": params}, mesh)["params"]
    with sharding.use(mesh):
        got = jax.jit(lambda p: sharding.constrain(p, "params"))(params)
    for name in params:
        assert got[name].sharding.is_equivalent_to(wanted[name], params[name].ndim)


def test_one_device_equals_eight():
    """A training step on any mesh gives the numbers of one device."""
    x = np.random.RandomState(0).randn(16, 64).astype(np.float32)
    w = np.random.RandomState(1).randn(64, 256).astype(np.float32) / 8

    def step(state, batch):
        def loss(p):
            h = sharding.constrain(jnp.tanh(batch["x"] @ p["w"]), "batch")
            return jnp.mean((h - h.mean(0)) ** 2)

        value, grad = jax.value_and_grad(loss)(state["params"])
        return {"params": {"w": state["params"]["w"] - 0.1 * grad["w"]}}, value

    results = []
    for mesh in (mesh_of(devices=1), mesh_of(), mesh_of(2, 2, 2)):
        state = {"params": {"w": w}}
        where = sharding.shardings(state, mesh)
        with sharding.use(mesh):
            jitted = jax.jit(step, out_shardings=(where, sharding.replicated(mesh)))
            new, value = jitted(jax.device_put(state, where), sharding.put_batch({"x": x}, mesh))
        assert new["params"]["w"].sharding == where["params"]["w"]
        results.append((np.asarray(new["params"]["w"]), float(value)))
    for w_new, value in results[1:]:
        np.testing.assert_allclose(w_new, results[0][0], atol=1e-6)
        assert value == pytest.approx(results[0][1], abs=1e-6)
