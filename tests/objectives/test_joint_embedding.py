"""What every joint-embedding method promises on every backbone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_of import PX, batch_of, build, config_of

from vitjax import experiment, trees
from vitjax.errors import UserError

METHODS = ("simclr", "byol", "swav", "moco_v3", "simsiam", "dino", "barlow_twins", "vicreg", "siamese")
CONTRASTIVE = ("simclr", "moco_v3")
TAUGHT = ("byol", "moco_v3", "dino")
BACKBONES = {
    "resnet": dict(name="resnet", depth=10, width=4, stem="cifar_half", zero_init_residual=True),
    "vgg": dict(name="vgg", depth=11, width=4, norm=True, head_widths=(), dropout=0.0),
    "vit": dict(
        name="vit", width=16, depth=1, heads=2, mlp_dim=32, patch_px=8, class_token=True, pool="cls", posemb="sincos2d",
        norm_eps=1e-6, activation="gelu", drop_path=0.0, scan=False, remat=False, attention="xla",
    ),
}  # fmt: skip


def config_with(method, backbone="vit", **changes):
    """The tiny form of the method's CIFAR-10 config, on another backbone, with a rate that moves from the start."""
    config = config_of(f"cifar10_{method}")
    with config.unlocked():
        del config.model
        config.model = BACKBONES[backbone]
    config.optim.update(dict(name="sgd", base_lr=0.1, base_batch=0, warmup_steps=0, start_lr=0.0, clip_norm=0.0))
    config.optim.update(dict(schedule="constant", held=(), frozen=(), end_lr=0.0))
    config.probe.field = ""
    config.update(changes)
    return config


# What runs twice on eight pictures is compiled in a hurry.
HURRIED = {"xla_backend_optimization_level": 0}


def fresh(built):
    """Not compiled as a whole: one by one, the operations of all methods are those of the first."""
    return experiment.fresh(built, 0)


def updated(config, steps=1, batch=None):
    built = build(config)
    state = fresh(built)
    update, logged = jax.jit(built.objective.update, compiler_options=HURRIED), []
    for step in range(steps):
        state, metrics = update(state, batch_of(seed=step) if batch is None else batch, jax.random.key(step))
        logged.append({name: float(x) for name, x in metrics.items()})
    return built, state, logged


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_method_trains_every_backbone(method, backbone):
    built, state, logged = updated(config_with(method, backbone), steps=2)
    before = fresh(built)
    assert int(state.step) == 2 and all(m["skipped"] == 0 and np.isfinite(m["loss"]) for m in logged)
    moved = [
        not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(state.params))
    ]
    assert np.mean(moved) > 0.9, "almost every parameter gets a gradient"
    variables = built.objective.export(state)
    features = built.objective.predict["features"](variables, batch_of(), jax.random.key(0))
    assert features.shape[0] == 8 and features.dtype == jnp.float32 and np.ptp(features, axis=0).max() > 0


@pytest.mark.parametrize("method", METHODS)
def test_chunks_and_pictures_that_do_not_count_change_no_gradient(method):
    """Of a network without batch norm: with it a chunk has statistics of its own, and pictures reach each other."""
    whole, parts = (without_norm(config_with(method, embed_chunks=chunks)) for chunks in (1, 2))
    if method in CONTRASTIVE:
        parts.loss_chunks = 2
    batch, other = batch_of(), batch_of()
    for b in (batch, other):
        b["valid"] = np.arange(8) != 5
    other["image"][5] = 255 - other["image"][5]
    built = build(whole)
    state, update = fresh(built), jax.jit(built.objective.update, compiler_options=HURRIED)
    (one, logged), (same, _) = (update(state, b, jax.random.key(0)) for b in (batch, other))
    update = jax.jit(build(parts).objective.update, compiler_options=HURRIED)
    two, logged_too = update(state, batch, jax.random.key(0))
    np.testing.assert_allclose(logged["loss"], logged_too["loss"], rtol=1e-5, atol=1e-6)
    assert float(logged["grad_norm"]) > 1e-4
    for path, x in trees.flatten(one.params).items():
        np.testing.assert_allclose(x, trees.flatten(same.params)[path], atol=1e-6, err_msg=path)
        np.testing.assert_allclose(x, trees.flatten(two.params)[path], atol=2e-5, rtol=1e-4, err_msg=path)


def without_norm(config):
    for head in ("projector", "predictor"):
        if head in config.objective:
            config.objective[head].update(dict(hidden_norm=False, out_norm="none"))
    return config


@pytest.mark.parametrize("method", TAUGHT)
def test_a_teacher_receives_no_gradient_and_follows(method):
    built, state, _ = updated(config_with(method))
    start = fresh(built)
    teacher, online = start.extra["teacher"]["params"], start.params
    assert set(teacher) == {"backbone", "projector"}

    def loss(params):
        moved = start._replace(extra={**start.extra, "teacher": {**start.extra["teacher"], "params": params}})
        return built.objective.update(moved, batch_of(), jax.random.key(0))[1]["loss"]

    grads = jax.jit(jax.grad(loss), compiler_options=HURRIED)(teacher)
    assert all(not np.any(g) for g in jax.tree.leaves(grads))
    after = trees.flatten(state.extra["teacher"]["params"])
    for path, x in trees.flatten(teacher).items():
        new = trees.flatten(state.params)[path]
        lo, hi = np.minimum(x, new) - 1e-6, np.maximum(x, new) + 1e-6
        assert np.all((after[path] >= lo) & (after[path] <= hi)), path
    assert jax.tree.structure(online["backbone"]) == jax.tree.structure(teacher["backbone"])


def test_codes_and_queue_receive_no_gradient():
    """SwAV's loss moves with the queue, and yet the queue's gradient is zero."""
    config = config_with("swav")
    config.objective.update(dict(queue=8, queue_epoch=0.0))
    built, state, _ = updated(config, steps=2)
    assert int(state.extra["queued"]) == 8
    np.testing.assert_allclose(np.linalg.norm(state.extra["queue"], axis=-1), 1.0, rtol=1e-5)

    def loss(queue):
        full = state._replace(extra={**state.extra, "queue": queue})
        return built.objective.update(full, batch_of(), jax.random.key(0))[1]["loss"]

    graded = jax.jit(jax.value_and_grad(loss), compiler_options=HURRIED)
    value, grads = graded(state.extra["queue"])
    assert not np.any(grads)
    assert abs(float(graded(-state.extra["queue"])[0]) - float(value)) > 1e-6


def test_prototypes_stay_on_the_unit_sphere():
    _, state, _ = updated(config_with("swav"), steps=2)
    np.testing.assert_allclose(np.linalg.norm(state.params["prototypes"]["kernel"], axis=0), 1.0, rtol=1e-5)


def test_a_queue_that_no_batch_divides_is_refused():
    config = config_with("swav")
    config.objective.queue = 12
    with pytest.raises(UserError, match=r"objective\.queue=12 must be a multiple of config\.batch_size=8.*try 16"):
        build(config)


@pytest.mark.parametrize(
    "method, setting, value, bound",
    [
        ("swav", "sinkhorn_iterations", 0, "at least 1"),
        ("swav", "prototypes", 1, "at least 2"),
        ("swav", "queue", -8, "at least 0"),
        ("swav", "queue_epoch", -1.0, "at least 0"),
        ("swav", "epsilon", 0.0, "above 0"),
        ("dino", "teacher_temperature_epochs", -1.0, "at least 0"),
        ("dino", "center_momentum", 1.5, "between 0 and 1"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(method, setting, value, bound):
    config = config_with(method)
    config.objective[setting] = value
    with pytest.raises(UserError, match=rf"config\.objective\.{setting}={value} must be {bound}"):
        build(config)


def test_a_method_of_two_views_refuses_one():
    config = config_with("simclr")
    with config.unlocked():
        config.augment.views = {}
    with pytest.raises(UserError, match=r"config\.augment\.views makes 1 view.*compares 2"):
        build(config)


def test_the_export_of_dino_is_its_teacher():
    built, state, _ = updated(config_with("dino"))
    exported = trees.flatten(built.objective.export(state))
    for path, x in trees.flatten(state.extra["teacher"]).items():
        np.testing.assert_array_equal(exported[path], x)


def test_labels_pair_pictures_of_a_class():
    config = config_with("siamese")
    config.objective.label = "label"
    _, _, labelled = updated(config, batch=batch_of(labels=[0, 0, 0, 0, 1, 1, 1, 1]))
    _, _, alone = updated(config_with("siamese"))
    assert labelled[0]["loss"] != alone[0]["loss"] and PX == 32


def test_a_collapsed_simsiam_is_one_without_a_stopped_gradient():
    healthy, collapsed = config_with("simsiam"), config_with("simsiam")
    collapsed.objective.stop_gradient = False
    (_, one, _), (_, two, _) = updated(healthy), updated(collapsed)
    leaves = zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params))
    assert any(not np.allclose(a, b) for a, b in leaves)
