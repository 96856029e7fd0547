"""Whole training steps of real objectives on meshes: the numbers, where arrays lie, and what moves."""

import re

import jax
import numpy as np
import optax
import pytest
from jax import monitoring
from jax.sharding import PartitionSpec as P
from own_methods import stateful
from steps import WIDE, batch_of, build, compiled, config_of, mesh_of, trained

from vitjax import experiment, loop, models, sharding, trees
from vitjax.errors import UserError
from vitjax.models import resnet

ONE, DATA, FSDP, TENSOR, MIXED = (1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)
COMPILED = []
monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: COMPILED.append(name) if "backend_compile" in name else None
)


def mae(**model):
    config = config_of("mae_vitb", **WIDE, **model)
    config.objective.update(dict(decoder_width=128, decoder_heads=8))
    return config


def plain(config, rate=0.05):
    """With an optimiser whose update is proportional to the gradient: rounding stays rounding."""
    config.optim.update(dict(name="sgd", base_lr=rate, base_batch=0))
    return config


def small_resnet(monkeypatch):
    monkeypatch.setitem(resnet.DEPTHS, 18, (1, 1))
    return plain(config_of("supervised_resnet50", depth=18, width=64, stem="cifar"))


CONFIGS = {
    "mae scanned": lambda monkeypatch: plain(mae(scan=True)),
    "mae looped": lambda monkeypatch: plain(mae(scan=False, depth=1)),
    "resnet": small_resnet,
    "stateful": lambda monkeypatch: config_of("stateful"),
    # Slowly: at a larger rate a difference in the last bit moves activations over the kink of a leaky ReLU.
    "dcgan": lambda monkeypatch: plain(config_of("scenes_dcgan", width=32), rate=1e-4),
}
CASES = [
    ("mae scanned", (DATA, FSDP, MIXED)),
    ("mae looped", (MIXED,)),
    ("resnet", (MIXED,)),
    ("stateful", (FSDP,)),
    ("dcgan", (MIXED,)),
]


@pytest.mark.parametrize("name, meshes", CASES)
def test_any_mesh_equals_one_device(name, meshes, monkeypatch):
    built = build(CONFIGS[name](monkeypatch))
    expected, losses = trained(built, mesh_of(ONE))
    split = 0
    for sizes in meshes:
        state, found = trained(built, mesh_of(sizes))
        np.testing.assert_allclose(found, losses, rtol=1e-5)
        for path, x in trees.flatten(state).items():
            np.testing.assert_allclose(x, trees.flatten(expected)[path], atol=1e-5, rtol=1e-5, err_msg=path)
            split += not x.sharding.is_fully_replicated
    assert split, "nothing was split, so nothing was shown"


def test_a_round_that_the_devices_cannot_share_is_refused():
    config = config_of("cifar10_biggan", batch_size=16)
    config.objective.discriminator_steps = 4
    with pytest.raises(UserError, match=r"batch_size=16 must be a multiple of 32 = 4 moves.*x 8 shards.*try 32"):
        compiled(build(config), mesh_of(DATA))


def test_a_step_compiles_once_and_leaves_the_state_where_it_was():
    built, mesh = build(config_of("stateful")), mesh_of(MIXED)
    abstract, step_fn = compiled(built, mesh)
    ins, outs = step_fn.input_shardings[0][0], step_fn.output_shardings[0]
    same = jax.tree.map(lambda x, a, b: a.is_equivalent_to(x.sharding, x.ndim) and b == a, abstract, ins, outs)
    assert all(jax.tree.leaves(same))
    with sharding.use(mesh):
        state = experiment.fresh_state(built, abstract, {})
        batches = [batch_of(built, step) for step in range(3)]
        COMPILED.clear()
        after = loop.train(step_fn, state, iter(batches), first_step=0, total_steps=3, mesh=mesh, hooks=[])
    assert not COMPILED and int(after.step) == 3
    assert all(x.is_deleted() for x in jax.tree.leaves(state)), "every buffer is donated"


def chains():
    """Optimisers whose state has no place for some parameters, or slots of another shape."""
    labels = {"backbone": "fast", "head": "slow"}
    is_matrix = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)  # noqa: E731
    return {
        "partition": optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.partition({"fast": optax.adamw(1e-2), "slow": optax.sgd(1e-2, momentum=0.9)}, labels),
        ),
        "masked": optax.chain(optax.masked(optax.trace(0.9), is_matrix), optax.scale_by_adam(), optax.scale(-1e-3)),
        "adafactor": optax.adafactor(1e-2, min_dim_size_to_factor=128, momentum=0.9),
        "lars": optax.lars(0.1, weight_decay=1e-4, weight_decay_mask=is_matrix),
    }


def stateful_with(tx, width=256):
    built = build(config_of("stateful"))
    built.config._config.objective.width = width
    return built._replace(objective=stateful.make(built.config, built.run, tx))


@pytest.mark.parametrize("chain", ["partition", "masked", "adafactor", "lars"])
def test_slots_and_copies_lie_with_their_parameters_in_any_chain(chain):
    state = sharding.abstract(experiment.abstract_state(stateful_with(chains()[chain])), mesh_of(FSDP))
    params = trees.flatten(state.params)
    assert params["backbone/kernel"].sharding.spec == P("fsdp")
    assert params["head/kernel"].sharding.spec != P()
    slots = 0
    for path, leaf in [*trees.flatten(state.opt).items(), *trees.flatten(state.extra["teacher"]).items()]:
        owners = [p for name, p in params.items() if path.endswith(name) and leaf.shape == p.shape]
        if owners:
            assert leaf.sharding == owners[0].sharding, path
            slots += leaf.size > sharding.MIN_SIZE
        else:
            assert leaf.size < sharding.MIN_SIZE, f"{path} {leaf.shape} lies whole on every device"
    # And the teacher's two matrices.
    assert slots == {"partition": 3, "masked": 6, "adafactor": 2, "lars": 2}[chain] + 2


def test_a_step_with_masked_slots_and_factored_ones_equals_one_device():
    rules = {"fast": chains()["adafactor"], "slow": chains()["masked"]}
    built = stateful_with(optax.partition(rules, {"backbone": "fast", "head": "slow"}))
    (one, losses), (many, found) = trained(built, mesh_of(ONE)), trained(built, mesh_of(FSDP))
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    for path, x in trees.flatten(many.opt).items():
        np.testing.assert_allclose(x, trees.flatten(one.opt)[path], atol=1e-5, err_msg=path)


@pytest.mark.parametrize(
    "model, blocks",
    [
        (dict(scan=False, depth=3), 3),
        (dict(scan=True, depth=3), 1),  # the body of the scan
        (dict(scan=True, remat=True, depth=3), 1),
    ],
)
def test_every_block_of_a_vit_holds_its_activations_to_the_batch_sharding(model, blocks):
    backbone = models.build(build(config_of("supervised_vits", **model)).config.model)
    assert constraints(backbone, mesh_of(FSDP)) == [P(("data", "fsdp"))] * blocks


def test_every_block_of_a_resnet_holds_its_activations_to_the_batch_sharding(monkeypatch):
    backbone = models.build(small_resnet(monkeypatch).model)
    assert constraints(backbone, mesh_of(FSDP)) == [P(("data", "fsdp"))] * 2


def constraints(module, mesh):
    """The specs of all sharding constraints in a training pass of a module."""
    images = jax.ShapeDtypeStruct((8, 32, 32, 3), np.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)

    def forward(variables, images):
        return module.apply(variables, images, train=True, mutable=["batch_stats"])

    with sharding.use(mesh):
        found = equations(jax.make_jaxpr(forward)(variables, images).jaxpr)
    return [eqn.params["sharding"].spec for eqn in found if eqn.primitive.name == "sharding_constraint"]


def equations(jaxpr):
    """The equations of a jaxpr and of those inside it; jax has no public walk that its releases share."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(list(eqn.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def moved(compiled, kind):
    """The shapes that the collectives of a kind make, all pieces of a tuple as one."""
    lines = re.findall(rf"= (.*?) {kind}(?:-start)?\(", compiled.as_text())
    return [[[int(n) for n in dims.split(",") if n] for dims in re.findall(r"\w\[([\d,]*)\]", line)] for line in lines]


def numbers(shapes):
    return sum(int(np.prod(shape)) for shape in shapes)


PICTURES, PX = 64, 64  # large enough that to move activations would be dear


def test_tensor_parallel_blocks_move_no_activations_but_by_one_sum():
    config = config_of("supervised_vits", PICTURES, PX, scan=True, depth=3, **WIDE)
    _, step = compiled(build(config), mesh_of(TENSOR))
    assert not moved(step, "collective-permute")
    # The kernel of qkv changes from rows to heads, and its gradient back.
    assert [numbers(shapes) for shapes in moved(step, "all-to-all")] == [WIDE["width"] ** 2 * 3 // 8] * 2
    # Vectors are whole on every device: small ones are not worth splitting.
    assert all(numbers(shapes) <= 3 * 3 * WIDE["mlp_dim"] for shapes in moved(step, "all-gather"))
    activations = PICTURES * (PX // 8) ** 2 * WIDE["width"]
    sums = [numbers(shapes) for shapes in moved(step, "all-reduce")]
    assert sums.count(activations) == 4, "one for attention and one for the MLP, forward and backward"


def test_sharded_parameters_move_no_activations():
    for scan in (True, False):
        config = config_of("supervised_vits", PICTURES, PX, scan=scan, **WIDE)
        _, step = compiled(build(config), mesh_of(FSDP))
        assert not moved(step, "all-to-all") and not moved(step, "collective-permute")
        gathered = [shape for shapes in moved(step, "all-gather") for shape in shapes]
        assert gathered and max(int(np.prod(shape)) for shape in gathered) <= 2 * WIDE["width"] * WIDE["mlp_dim"]


@pytest.mark.parametrize("sizes", [FSDP, MIXED])
def test_accumulation_takes_no_more_memory(sizes):
    taken = []
    for accum in (1, 4):
        config = config_of("supervised_vits", PICTURES, PX, accum, scan=True, **WIDE)
        memory = compiled(build(config), mesh_of(sizes))[1].memory_analysis()
        taken.append((memory.argument_size_in_bytes, memory.temp_size_in_bytes))
    (whole_args, whole), (args, parts) = taken
    assert args == whole_args and parts < 0.6 * whole
