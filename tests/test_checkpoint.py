import os
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vitjax import checkpoint, trees
from vitjax.checkpoint import Checkpointer
from vitjax.errors import RunError, UserError


class State(NamedTuple):
    step: Any
    params: Any
    opt: Any
    extra: Any


TX = optax.chain(optax.clip_by_global_norm(1.0), optax.masked(optax.adamw(1e-2), {"w": True, "b": False}))


def begin(width: int = 6) -> State:
    params = {"w": jax.random.normal(jax.random.key(0), (8, width)), "b": jnp.arange(3.0)}
    extra = {"ema": jax.tree.map(lambda x: (x * 0.3).astype(jnp.bfloat16), params), "queue": jnp.arange(7)}
    return State(jnp.int32(0), params, TX.init(params), extra)


def advance(state: State) -> State:
    grads = jax.tree.map(lambda x: jnp.sin(x) + 0.1, state.params)
    updates, opt = TX.update(grads, state.opt, state.params)
    return State(state.step + 1, optax.apply_updates(state.params, updates), opt, state.extra)


def mesh_of(devices: int):
    return jax.make_mesh((devices,), ("fsdp",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def shardings_of(state, mesh):
    return jax.tree.map(lambda x: NamedSharding(mesh, P("fsdp") if x.shape[:1] == (8,) else P()), state)


def abstract(mesh, width: int = 6):
    shapes = jax.eval_shape(lambda: begin(width))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings_of(shapes, mesh)
    )


def stepped(mesh, steps: int = 2) -> State:
    out = shardings_of(jax.eval_shape(begin), mesh)
    state = jax.jit(begin, out_shardings=out)()
    for _ in range(steps):
        state = jax.jit(advance, out_shardings=out)(state)
    return state


def assert_same_bits(a, b):
    a, b = trees.flatten(a), trees.flatten(b)
    assert list(a) == list(b)
    for path in a:
        assert a[path].dtype == b[path].dtype, path
        assert np.asarray(a[path]).tobytes() == np.asarray(b[path]).tobytes(), path


def addresses(state):
    """Where the buffers of a state lie in memory, every device's."""
    jax.block_until_ready(state)
    shards = [shard for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards]
    return {shard.data.unsafe_buffer_pointer() for shard in shards}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with one checkpoint, of step 2, written on eight devices."""
    run = tmp_path_factory.mktemp("run")
    state = stepped(mesh_of(8))
    with Checkpointer(run / "checkpoints") as checkpointer:
        checkpointer.save(2, state)
    return run, state


@pytest.mark.parametrize("devices", [8, 2, 1])
def test_restored_state_has_the_same_bits_on_any_mesh(saved, devices):
    run, state = saved
    wanted = abstract(mesh_of(devices))
    restored = Checkpointer(run / "checkpoints").restore(wanted)
    assert_same_bits(restored, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for leaf, asked in zip(jax.tree.leaves(restored), jax.tree.leaves(wanted)):
        assert leaf.sharding.is_equivalent_to(asked.sharding, leaf.ndim)


@pytest.mark.parametrize("devices", [8, 1])
def test_first_resumed_step_donates_every_buffer(saved, devices):
    wanted = abstract(mesh_of(devices))
    restored = Checkpointer(saved[0] / "checkpoints").restore(wanted)
    out = jax.tree.map(lambda x: x.sharding, wanted)
    step = jax.jit(advance, donate_argnums=0, out_shardings=out)
    before = addresses(restored)
    after = addresses(step(restored))
    assert [path for path, leaf in trees.flatten(restored).items() if not leaf.is_deleted()] == []
    # A buffer that jax does not own is deleted too, but copied first: then the results lie somewhere else.
    assert after == before


def test_saving_is_safe_against_donation_by_the_next_step(tmp_path):
    mesh = mesh_of(2)
    out = shardings_of(jax.eval_shape(begin), mesh)
    state = stepped(mesh)
    expected = jax.tree.map(lambda x: np.array(x), state)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0, out_shardings=out)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(2, state)
    for _ in range(3):
        state = overwrite(state)
    checkpointer.wait()
    assert_same_bits(checkpointer.restore(abstract(mesh)), expected)


def test_nothing_but_named_arrays_is_on_the_disk(saved):
    run, state = saved
    flat = checkpoint.read_variables(run, checkpoint.ITEMS)
    assert set(flat) == {
        f"{item}/{path}" for item in checkpoint.ITEMS for path in trees.flatten(getattr(state, item))
    }


def test_variables_are_read_on_one_device_without_arguments(saved):
    run, state = saved
    code = f"""
import numpy as np
from vitjax import checkpoint
flat = checkpoint.read_variables({str(run)!r})
import jax
assert len(jax.devices()) == 1
assert sorted(flat) == ['extra/ema/b', 'extra/ema/w', 'extra/queue', 'params/b', 'params/w']
assert flat['extra/ema/w'].dtype.name == 'bfloat16'
print(flat['params/w'].astype(np.float64).sum())
"""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert float(done.stdout) == np.asarray(state.params["w"]).astype(np.float64).sum()


def test_state_to_export_has_weights_that_fit_any_mesh(saved):
    run, state = saved
    read = checkpoint.read_state(run, jax.eval_shape(begin))
    assert_same_bits((read.step, read.params, read.extra), (state.step, state.params, state.extra))
    assert jax.tree.leaves(read.opt) == []
    on_mesh = jax.device_put(np.ones((8, 6), np.float32), NamedSharding(mesh_of(4), P("fsdp")))
    assert jnp.isfinite(jax.jit(jnp.vdot)(on_mesh, read.params["w"]))


def test_other_model_is_refused_and_named(saved):
    checkpointer = Checkpointer(saved[0] / "checkpoints")
    message = r"another model: .*ema/w: bfloat16\[8,6\] there, bfloat16\[8,5\] here.*--workdir.*config\.init"
    with pytest.raises(UserError, match=message):
        checkpointer.restore(abstract(mesh_of(1), width=5))
    wanted = abstract(mesh_of(1))
    more = wanted._replace(params={**wanted.params, "head": wanted.params["b"]})
    with pytest.raises(UserError, match=r"params/head: nothing there, float32\[3\] here"):
        checkpointer.restore(more)


def test_other_type_is_refused_instead_of_cast(saved):
    wanted = abstract(mesh_of(1))
    wanted.params["b"] = jax.ShapeDtypeStruct((3,), jnp.bfloat16)
    with pytest.raises(UserError, match=r"params/b: float32\[3\] there, bfloat16\[3\] here"):
        Checkpointer(saved[0] / "checkpoints").restore(wanted)


def test_empty_and_unfinished_folders_are_passed_over_and_replaced(tmp_path):
    state = stepped(mesh_of(1), steps=1)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state)
    (tmp_path / "2").mkdir()
    (tmp_path / "3" / "params").mkdir(parents=True)
    (tmp_path / "4.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "notes").mkdir()
    assert Checkpointer(tmp_path).latest_step() == 1
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(2, advance(state))
    assert Checkpointer(tmp_path).latest_step() == 2
    assert not (tmp_path / "4.orbax-checkpoint-tmp").exists()


def test_newest_are_kept(tmp_path):
    state = stepped(mesh_of(1), steps=0)
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for step in range(1, 5):
            state = advance(state)
            checkpointer.save(step, state)
            checkpointer.save(step, state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]
    assert int(checkpointer.restore(abstract(mesh_of(1)), step=3).step) == 3


def test_no_checkpoint_says_so(tmp_path):
    assert Checkpointer(tmp_path / "none").latest_step() is None
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        Checkpointer(tmp_path / "none").restore(abstract(mesh_of(1)))


def test_truncated_checkpoint_is_an_error_with_its_cause(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, stepped(mesh_of(1), steps=1))
    largest = max((p for p in (tmp_path / "1" / "params").rglob("d/*")), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"1 cannot be read: \w+: .*move the folder away"):
        checkpointer.restore(abstract(mesh_of(1)))


def test_failed_background_save_raises_at_the_next_call(tmp_path, monkeypatch):
    class Failing:
        def result(self):
            raise OSError(28, "No space left on device")

    checkpointer = Checkpointer(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp, "save_checkpointables_async", lambda *args, **kw: Failing())
        checkpointer.save(1, stepped(mesh_of(1), steps=1))
    with pytest.raises(RunError, match=r"/1 could not be written: .*No space left"):
        checkpointer.save(2, stepped(mesh_of(1), steps=2))
    checkpointer.save(2, stepped(mesh_of(1), steps=2))
    checkpointer.close()
    assert checkpointer.latest_step() == 2


def test_directory_that_cannot_be_made_raises_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="could not be written.*no earlier one stands"):
        Checkpointer(tmp_path / "file" / "checkpoints").save(1, stepped(mesh_of(1), steps=1))
