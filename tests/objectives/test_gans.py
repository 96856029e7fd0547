"""DCGAN and BigGAN as objectives: what a round does to all that it changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_of import B, batch_of, build, config_of

from vitjax import experiment, latent, models, trees
from vitjax.checkpoint import Checkpointer
from vitjax.errors import UserError

CONFIGS = ("scenes_dcgan", "cifar10_biggan")
KEY = jax.random.key(0)


@functools.cache
def game(name):
    """(experiment, first state, compiled update) of a tiny config."""
    built = build(config_of(name))
    # On a device of its own, as what is restored is: jit compiles once.
    state = jax.device_put(jax.jit(lambda: experiment.fresh(built, 0))(), jax.devices()[0])
    return built, state, jax.jit(built.objective.update)


def shape_of(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def changed(a, b, prefix):
    """The share of the leaves below `prefix` that differ."""
    a, b = trees.flatten(a), trees.flatten(b)
    paths = [path for path in a if path.startswith(prefix)]
    return np.mean([not np.array_equal(a[path], b[path]) for path in paths])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_round_moves_both_players_and_all_their_state(name):
    built, state, update = game(name)
    new, metrics = update(state, batch_of(), KEY)
    newer, metrics = update(new, batch_of(seed=1), jax.random.key(1))
    assert all(np.isfinite(x) for x in metrics.values()) and metrics["skipped"] == 0 and newer.step == 2
    parts = [
        "params/generator/",
        "params/discriminator/",
        "extra/ema/params/",
        "extra/batch_stats/generator/",
    ]
    parts += ["extra/spectral/generator/"] if "biggan" in name else ["extra/batch_stats/discriminator/"]
    for part in parts:
        # A discriminator that wins with hinge terms of 0 would move nothing.
        assert changed(new, newer, part) > 0.9, part
    assert metrics["loss"] == metrics["discriminator/loss"]
    norms = metrics["generator/grad_norm"] / metrics["discriminator/grad_norm"]
    np.testing.assert_allclose(metrics["health/gradient_ratio"], norms, rtol=1e-5)
    assert {f"discriminator/accuracy_{kind}" for kind in ("real", "fake")} <= set(metrics)
    assert {"health/diversity", "learning_rate"} <= set(metrics)
    assert "chance" not in metrics, "in balance the discriminator is at chance, which is no alarm"


def test_a_cut_run_goes_on_to_the_bit(tmp_path):
    built, state, update = game("cifar10_biggan")
    new, _ = update(state, batch_of(), KEY)
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        checkpointer.save(1, new)
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        restored = checkpointer.restore(jax.tree.map(shape_of, new))
    ends = [update(s, batch_of(seed=1), jax.random.key(1))[0] for s in (new, restored)]
    flat = [trees.flatten(end) for end in ends]
    assert any(path.startswith("extra/ema/spectral/generator/") for path in flat[0])
    for path, x in flat[0].items():
        np.testing.assert_array_equal(x, flat[1][path], err_msg=path)


def test_the_exported_generator_is_the_average():
    built, state, _ = game("scenes_dcgan")
    extra = state.extra | {"ema": jax.tree.map(lambda x: x + 1, state.extra["ema"])}
    variables = built.objective.export(state._replace(extra=extra))
    flat, before = trees.flatten(variables), trees.flatten({"params": state.params, **state.extra})
    for path, x in flat.items():
        np.testing.assert_allclose(x, before[path] + ("/generator/" in path), err_msg=path)
    assert "ema" not in variables


def test_made_pictures_are_functions_of_their_rows_and_of_what_is_asked_for():
    built, state, _ = game("cifar10_biggan")
    variables = experiment.exporter(built)(state)
    generate = jax.jit(built.objective.predict["generate"])
    rows = jnp.arange(B)
    made = generate(variables, {"row": rows}, KEY)
    assert made.dtype == np.uint8 and made.shape == (B, 32, 32, 3)
    other = generate(variables, batch_of(seed=3), KEY)
    np.testing.assert_array_equal(made, other, err_msg="the pictures of a batch must not matter")
    asked = dict(latent=latent.draw(KEY, rows, 128), latent_class=latent.draw_classes(KEY, rows, 5))
    np.testing.assert_array_equal(generate(variables, {"row": rows, **asked}, jax.random.key(9)), made)


@pytest.mark.parametrize("name", CONFIGS)
def test_progress_is_shown_by_the_same_latents_beside_real_pictures(name):
    built, state, _ = game(name)
    variables = experiment.exporter(built)(state)
    shown = jax.jit(built.objective.predict["sample"])(variables, batch_of(), KEY)
    assert sorted(shown) == ["interpolation", "real", *(f"sample_{i}" for i in range(4))]
    np.testing.assert_array_equal(shown["real"], batch_of()["image"])
    assert all(x.shape == (B, 32, 32, 3) and x.dtype == np.uint8 for x in shown.values())
    ends = shown["interpolation"][np.array([0, -1])], shown["sample_0"][np.array([0, -1])]
    assert np.abs(ends[0].astype(int) - ends[1]).max() <= 1


@pytest.mark.parametrize("name", CONFIGS)
def test_features_are_the_discriminators_and_each_pictures_own(name):
    built, state, _ = game(name)
    variables = built.objective.export(state)
    features = jax.jit(built.objective.predict["features"])
    whole = features(variables, batch_of(), KEY)
    part = {k: v[:3] for k, v in batch_of().items()}
    np.testing.assert_allclose(features(variables, part, jax.random.key(1)), whole[:3], rtol=1e-4, atol=1e-5)
    own = models.part(models.part(variables, "discriminator"), "backbone")
    backbone = models.build(built.config.model)
    images = batch_of()["image"] / 127.5 - 1
    np.testing.assert_allclose(backbone.apply(own, images)["features"], whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name, section, key, value, message",
    [
        (
            "scenes_dcgan",
            "objective",
            "loss",
            "hing",
            r"loss='hing' must be one of non_saturating, hinge, wasserstein",
        ),
        ("scenes_dcgan", "objective", "loss", "wasserstein", r"nothing bounds.*r1=10"),
        ("scenes_dcgan", "objective", "r1", -1.0, r"r1=-1\.0 must be at least 0"),
        ("scenes_dcgan", "objective", "discriminator_rate", 0.0, r"discriminator_rate=0\.0 must be above 0"),
        ("scenes_dcgan", "objective", "discriminator_steps", 0, r"discriminator_steps=0 must be at least 1"),
        ("scenes_dcgan", "objective", "ema_decay", 1.0, r"ema_decay=1\.0"),
        ("scenes_dcgan", "objective", "ema_start", -5, r"ema_start=-5 must be at least 0"),
        ("scenes_dcgan", "objective", "r1", float("inf"), r"r1=inf"),
        ("scenes_dcgan", "objective", "standing_batch", 1, r"standing_batch=1 must be"),
        ("scenes_dcgan", "objective", "z_dim", 0, r"z_dim=0 must be at least 1"),
        ("scenes_dcgan", "data", "std", (0.2, 0.2, 0.2), r"pictures in -1\.\.1.*\(0\.5, 0\.5, 0\.5\)"),
        ("cifar10_biggan", "objective", "label", "label/hue", r"label='label/hue'.*it has label"),
        ("cifar10_biggan", "objective", "orthogonal", -1.0, r"orthogonal=-1\.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, section, key, value, message):
    config = config_of(name)
    config[section][key] = value
    with pytest.raises(UserError, match=message):
        experiment.abstract_state(build(config))


def test_a_batch_that_does_not_divide_into_the_rounds_parts_is_refused():
    config = config_of("cifar10_biggan")
    config.objective.discriminator_steps = 3
    built = build(config)
    with pytest.raises(UserError, match=r"batch_size=8 must be a multiple of 3 = 3 moves of a round.*try 6 or 9"):
        jax.eval_shape(built.objective.update, experiment.abstract_state(built), batch_of(), KEY)
