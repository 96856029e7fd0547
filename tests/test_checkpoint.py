import functools
import json
import logging
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging as absl_logging
from etils import epath
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vitjax import checkpoint, loading, stored, trees
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
    # The queue is long enough to lie outside of what the database itself has checksums of.
    queue = jnp.arange(4000.0)
    extra = {"ema": jax.tree.map(lambda x: (x * 0.3).astype(jnp.bfloat16), params), "queue": queue}
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


@pytest.mark.parametrize("place", ["retire", "rmtree"])
def test_whatever_keeps_an_old_checkpoint_from_being_removed_is_a_warning(tmp_path, monkeypatch, caplog, place):
    class RemoteError(Exception):
        """As of a library of some store: not an OSError."""

    def refused(*_, **__):
        raise RemoteError("429 slow down")

    said = []
    monkeypatch.setattr(*((stored, "retire") if place == "retire" else (type(epath.Path(tmp_path)), "rmtree")), refused)
    with Checkpointer(tmp_path, keep=1, say=said.append) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, stepped(mesh_of(1), steps=step))
    assert checkpointer.latest_step() == 3
    assert "could not be removed: RemoteError: 429 slow down" in caplog.text + "".join(said)


def test_directory_that_cannot_be_made_raises_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="could not be written.*no earlier one stands"):
        Checkpointer(tmp_path / "file" / "checkpoints").save(1, stepped(mesh_of(1), steps=1))


def two_steps(directory, **settings):
    """The states of a run with the checkpoints 1 and 2, by step."""
    mesh = mesh_of(1)
    states = {step: stepped(mesh, steps=step) for step in (1, 2)}
    with Checkpointer(directory, keep=0, **settings) as checkpointer:
        for step, state in states.items():
            checkpointer.save(step, state)
    return states


def newest(directory, said=None):
    """What a restart finds: (state, step), or None."""
    say = (lambda text: None) if said is None else said.append
    found = Checkpointer(directory, say=say).restore_newest(abstract(mesh_of(1)))
    return found and found[:2]


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(folder, array, bit=9):
    """Changes one bit of `array` where it lies in the files of a checkpoint; a function that changes it back."""
    for path in files_of(folder):
        data, wanted = bytearray(path.read_bytes()), np.asarray(array).tobytes()
        at = data.find(wanted)
        if at >= 0:
            data[at + bit // 8] ^= 1 << bit % 8
            whole = path.read_bytes()
            path.write_bytes(data)
            return lambda: path.write_bytes(whole)
    raise AssertionError("the array is not there")


@pytest.fixture
def pair(tmp_path):
    return tmp_path, two_steps(tmp_path)


def test_any_flipped_byte_is_caught_and_the_run_falls_back(tmp_path):
    states = two_steps(tmp_path)
    whole = {path: path.read_bytes() for path in files_of(tmp_path / "2")}
    arrays = [states[2].params["w"], states[2].extra["queue"]]
    rng, caught = np.random.default_rng(0), 0
    for trial in range(64):
        if trial % 2:
            array = arrays[trial // 2 % 2]
            mend = flip(tmp_path / "2", array, int(rng.integers(8 * array.nbytes)))
        else:
            path = rng.choice([path for path in whole if whole[path]])
            data, at = bytearray(whole[path]), rng.integers(len(whole[path]))
            data[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(data)
            mend = functools.partial(path.write_bytes, whole[path])
        state, step = newest(tmp_path)
        assert_same_bits(state, states[step])  # never a wrong number, whichever step it is
        assert step == 1 or not trial % 2  # a byte that means nothing may change
        caught += step == 1
        aside = list(tmp_path.glob("*.damaged*"))
        assert len(aside) == (step == 1)
        for folder in aside:
            folder.rename(tmp_path / "2")
        mend()
    assert caught > 40
    assert newest(tmp_path)[1] == 2


def test_a_flipped_bit_of_a_weight_is_named(pair):
    directory, states = pair
    flip(directory / "2", states[2].extra["queue"])
    said = []
    state, step = newest(directory, said)
    assert step == 1 and len(said) == 1
    assert "/2 is passed over: " in said[0] and "checksum" in said[0] and "it is 2.damaged now" in said[0]
    with pytest.raises(UserError, match=r"1 of 8 arrays differ.*: extra/queue"):
        (directory / "2.damaged").rename(directory / "2")
        Checkpointer(directory).restore(abstract(mesh_of(1)), step=2)


def test_truncated_missing_and_empty_files_are_passed_over(tmp_path):
    states = two_steps(tmp_path)
    whole = {path: path.read_bytes() for path in files_of(tmp_path / "2")}
    needed = [path for path in whole if path.name.startswith(("_METADATA", "manifest")) or len(whole[path]) > 500]
    assert len(needed) > 6
    for path in needed:
        for damage in (path.unlink, lambda p=path: p.write_bytes(whole[p][: len(whole[p]) // 2])):
            damage()
            state, step = newest(tmp_path)
            assert_same_bits(state, states[step])
            if step == 1:
                (tmp_path / "2.damaged").rename(tmp_path / "2")
            path.write_bytes(whole[path])
    (tmp_path / "2" / "_CHECKPOINT_METADATA").write_text("{}")
    said = []
    assert newest(tmp_path, said)[1] == 1
    assert "not written to its end" in said[0]


def test_changed_metadata_are_damage_and_not_another_model(pair):
    directory, _ = pair
    file = directory / "2" / "_CHECKPOINT_METADATA"
    file.write_text(file.read_text().replace('"float32"', '"float16"', 1))
    said = []
    assert newest(directory, said)[1] == 1
    assert "metadata are not what was written" in said[0]


def test_a_damaged_name_is_never_taken_twice(pair):
    directory, _ = pair
    (directory / "2.damaged").mkdir()
    (directory / "2" / "_CHECKPOINT_METADATA").unlink()
    assert newest(directory)[1] == 1
    assert (directory / "2.damaged.2" / "params").is_dir()


def test_an_empty_folder_is_passed_over_and_stays(pair):
    directory, _ = pair
    (directory / "7").mkdir()
    said = []
    assert newest(directory, said)[1] == 2
    assert "/7 is passed over" in said[0] and (directory / "7").is_dir()


def test_no_readable_checkpoint_never_starts_from_zero(pair):
    directory, _ = pair
    for step in (1, 2):
        (directory / str(step) / "params" / "manifest.ocdbt").write_bytes(b"")
    for _ in range(2):  # the second time, everything has been set aside
        with pytest.raises(UserError, match=r"none of the checkpoints.*another --workdir.*remove.*damaged"):
            newest(directory)


def test_other_models_and_formats_never_fall_back(pair):
    directory, _ = pair
    with pytest.raises(UserError, match="another model"):
        Checkpointer(directory).restore_newest(abstract(mesh_of(1), width=5))
    file = directory / "2" / "_CHECKPOINT_METADATA"
    meta = json.loads(file.read_text())
    for number in (1, 3):
        facts = {k: v for k, v in meta["custom_metadata"].items() if k != "crc"} | {"format": number}
        file.write_text(json.dumps(meta | {"custom_metadata": facts}))
        with pytest.raises(UserError, match=f"/2 has format {number}.*reads format 2.*another --workdir"):
            newest(directory)
    assert (directory / "2").is_dir()


def test_a_machine_without_memory_is_not_a_damaged_checkpoint(pair, monkeypatch):
    directory, _ = pair

    def full(*_):
        raise MemoryError("4 GB")

    monkeypatch.setattr(loading.ocp, "load_checkpointables", full)
    with pytest.raises(RunError, match="could not be read now.*4 GB"):
        newest(directory)
    assert (directory / "2").is_dir()


def test_nothing_saved_is_a_fresh_start_and_debris_is_named(tmp_path):
    said = []
    assert newest(tmp_path / "none", said) is None and not said
    (tmp_path / "1.orbax-checkpoint-tmp").mkdir()
    assert newest(tmp_path, said) is None
    assert "never finished" in said[0] and len(said) == 1


def test_a_restored_step_is_not_saved_again(pair):
    directory, states = pair
    checkpointer = Checkpointer(directory)
    state, step, _ = checkpointer.restore_newest(abstract(mesh_of(1)))
    before = (directory / "2" / "_CHECKPOINT_METADATA").stat().st_mtime_ns
    checkpointer.save(step, state)
    checkpointer.close()
    assert (directory / "2" / "_CHECKPOINT_METADATA").stat().st_mtime_ns == before


def test_readers_pass_over_damage_and_change_nothing(tmp_path, capsys):
    states = two_steps(tmp_path / "checkpoints")
    flip(tmp_path / "checkpoints" / "2", states[2].extra["queue"])
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    read = checkpoint.read_state(tmp_path, jax.eval_shape(begin))
    assert_same_bits((read.step, read.params), (states[1].step, states[1].params))
    flat = checkpoint.read_variables(tmp_path)
    assert flat["params/w"].tobytes() == np.asarray(states[1].params["w"]).tobytes()
    assert capsys.readouterr().err.count("2 is passed over") == 2
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == names
    with pytest.raises(UserError, match="differ from what was saved"):
        checkpoint.read_variables(tmp_path, step=2)


def test_a_failed_save_harms_nothing_older(pair, monkeypatch):
    """The disk is full: orbax has written a part, and its thread raises."""
    directory, _ = pair

    class Failing:
        def result(self):
            raise ValueError("Failed") from OSError(28, "No space left on device")

    def fail(folder, *_, **__):
        (folder.parent / f"{folder.name}.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
        return Failing()

    checkpointer = Checkpointer(directory, keep=1)
    state = checkpointer.restore_newest(abstract(mesh_of(1))).state
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp, "save_checkpointables_async", fail)
        checkpointer.save(3, advance(state))
        message = r"/3 could not be written: OSError.*No space left.*/2 stands.*[Mm]ake room.*same command"
        with pytest.raises(RunError, match=message):
            checkpointer.wait()
    assert sorted(path.name for path in directory.iterdir()) == ["1", "2"]
    checkpointer.save(3, advance(state))
    checkpointer.close()
    assert sorted(path.name for path in directory.iterdir()) == ["3"]


def test_nothing_is_removed_after_a_save_that_is_not_all_there(pair, monkeypatch):
    directory, _ = pair
    checkpointer = Checkpointer(directory, keep=1)
    state = checkpointer.restore_newest(abstract(mesh_of(1))).state
    checkpointer.save(3, advance(state))
    checkpointer._writing[1].result()
    shutil.rmtree(directory / "3" / "opt")
    with pytest.raises(RunError, match=r"/3 could not be written: .*opt is missing; .*/2 stands"):
        checkpointer.wait()
    assert sorted(path.name for path in directory.iterdir()) == ["1", "2", "3"]
    assert newest(directory)[1] == 2


def test_best_and_round_steps_stay_and_are_known_after_a_restart(tmp_path):
    scores = {}
    settings = dict(keep=1, keep_every_steps=4, keep_best_mode="min", scores=lambda: scores)
    state = stepped(mesh_of(1), steps=0)
    for steps in (range(1, 4), range(4, 8)):
        with Checkpointer(tmp_path, **settings) as checkpointer:
            for step in steps:
                state = advance(state)
                checkpointer.save(step, state)
                scores[step] = abs(step - 2.0)  # known only after the save was begun
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4", "7"]
    with pytest.raises(UserError, match=r"keep_best_mode='least'.*'max' or 'min'"):
        Checkpointer(tmp_path, keep_best_mode="least")


KILLED = """
import sys, jax, jax.numpy as jnp
from typing import Any, NamedTuple
from vitjax.checkpoint import Checkpointer
class State(NamedTuple):
    step: Any
    params: Any
    opt: Any
    extra: Any
def state(step):
    return State(jnp.int32(step), {f'w{i}': jnp.full((2**19,), 1.0 * step) for i in range(40)}, (), {})
checkpointer = Checkpointer(sys.argv[1], keep=1)
checkpointer.save(1, state(1))
checkpointer.wait()
for step in range(2, 1000):
    print(step, flush=True)
    checkpointer.save(step, state(step))
"""


def test_a_kill_during_a_save_leaves_a_checkpoint_that_can_be_read(tmp_path):
    shapes = {f"w{i}": jax.ShapeDtypeStruct((2**19,), jnp.float32) for i in range(40)}
    wanted = State(jax.ShapeDtypeStruct((), jnp.int32), shapes, (), {})
    unfinished = 0
    for delay_s in (0.0, 0.15):
        with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE) as process:
            begun = int(process.stdout.readline())
            while not list(tmp_path.glob(f"{begun}.orbax*")) and not (tmp_path / str(begun)).exists():
                time.sleep(0.001)
            time.sleep(delay_s)
            process.kill()
        unfinished += len(list(tmp_path.glob("*.orbax*")))
        state, step, _ = Checkpointer(tmp_path).restore_newest(wanted)
        assert step >= 1 and all(float(x.min()) == float(x.max()) == step for x in state.params.values())
        for path in tmp_path.iterdir():
            shutil.rmtree(path)
    assert unfinished


def test_a_disk_that_takes_no_more_is_named_and_the_run_goes_on_later(tmp_path):
    states = {step: State(jnp.int32(step), {"w": jnp.arange(2.0**19) * step}, (), {}) for step in (1, 2)}
    checkpointer = Checkpointer(tmp_path, keep=1)
    checkpointer.save(1, states[1])
    checkpointer.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(RunError, match=r"/2 could not be written: .*too large.*/1 stands"):
            checkpointer.save(2, states[2])
            checkpointer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    checkpointer.save(2, states[2])
    checkpointer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


PROCESSES = """
import sys, jax, jax.numpy as jnp, numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from pathlib import Path
from typing import Any, NamedTuple
folder, port, me = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f'127.0.0.1:{port}', 2, me)
from vitjax import checkpoint
class State(NamedTuple):
    step: Any
    params: Any
    opt: Any
    extra: Any
mesh = jax.make_mesh((2,), ('fsdp',), axis_types=(AxisType.Auto,))
rows, whole = NamedSharding(mesh, P('fsdp')), NamedSharding(mesh, P())
shardings = State(whole, {'w': rows}, (), {'ema': whole})
def begin(step):
    return State(jnp.int32(step), {'w': jnp.arange(8000.) + step}, (), {'ema': jnp.ones((4,)) * step})
checkpointer = checkpoint.Checkpointer(folder, keep=0)
for step in (1, 2, 3):
    checkpointer.save(step, jax.jit(lambda: begin(step), out_shardings=shardings)())
checkpointer.wait()
if me == 0:
    # Of 3, what only the second process reads; of 2, one bit, which both find out only by the checksum.
    for path in (folder / '3' / 'params' / 'ocdbt.process_1' / 'd').iterdir():
        path.write_bytes(path.read_bytes()[:500])
    for path in (folder / '2' / 'params').rglob('d/*'):
        data = bytearray(path.read_bytes())
        at = data.find((np.arange(4000, dtype=np.float32) + 2).tobytes())
        if at >= 0:
            data[at + 77] ^= 1
            path.write_bytes(data)
multihost_utils.sync_global_devices('damaged')
abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), jax.eval_shape(lambda: begin(0)), shardings
)
said = []
state, step, _ = checkpoint.Checkpointer(folder, say=said.append).restore_newest(abstract)
mine = np.asarray(state.params['w'].addressable_data(0))
print(me, step, len(said), int(state.step), (mine == np.arange(8000.)[4000 * me :][:4000] + 1).all(), flush=True)
assert list(checkpoint.read_variables(folder.parent)['extra/ema']) == [1.0] * 4
"""


def test_processes_fall_back_to_the_same_checkpoint(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-c", PROCESSES, str(tmp_path / "checkpoints"), str(port)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    processes = [subprocess.Popen([*command, str(i)], **pipes) for i in range(2)]
    try:
        told = [process.communicate(timeout=90) for process in processes]
    finally:
        for process in processes:
            process.kill()
    lines = [out.strip().splitlines()[-1] for out, _ in told]
    assert lines == ["0 1 2 1 True", "1 1 0 1 True"], told
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2.damaged", "3.damaged"]


def test_stacks_that_orbax_logs_of_errors_it_raises_are_not_shown(tmp_path):
    """A full disk would be a thousand lines of them."""
    Checkpointer(tmp_path)
    error = OSError(28, "No space left on device")
    shown = []
    raised = (OSError, error, None)
    for path, exc_info in (("/x/orbax/a.py", raised), ("/x/orbax/a.py", None), ("/x/mine.py", raised)):
        record = logging.LogRecord("absl", logging.ERROR, path, 1, "failed", (), exc_info)
        shown.append(bool(absl_logging.get_absl_logger().filter(record)))
    assert shown == [False, True, True]
