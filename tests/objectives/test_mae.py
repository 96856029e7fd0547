"""The masked autoencoder as an objective."""

import jax
import numpy as np
from objective_of import batch_of, build, config_of

from vitjax import experiment


def state_of(built):
    return jax.jit(lambda: experiment.fresh(built, 0))()


def test_the_papers_model_has_the_papers_trainable_parameters():
    built = build(config_of("mae_vitb", arg="").copy_and_resolve_references())
    params = experiment.abstract_state(built).params
    assert sum(x.size for x in jax.tree.leaves(params)) == 111_655_680


def test_a_step_learns_and_logs_what_it_should():
    config = config_of("mae_vitb")
    config.optim.base_lr = 0.02
    built = build(config)
    update = jax.jit(built.objective.update)
    state, losses = state_of(built), []
    for step in range(12):
        state, metrics = update(state, batch_of(), jax.random.key(step))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    assert {"loss", "grad_norm", "learning_rate", "skipped"} <= set(metrics)


def test_drop_path_trains():
    config = config_of("quickstart")
    config.model.drop_path = 0.2
    built = build(config)
    state, metrics = jax.jit(built.objective.update)(state_of(built), batch_of(), jax.random.key(0))
    assert np.isfinite(metrics["loss"])


def test_the_reconstruction_keeps_what_was_visible_and_hides_the_rest():
    built = build(config_of("quickstart"))
    variables = built.objective.export(state_of(built))
    shown = built.objective.predict["reconstruction"](variables, batch_of(), jax.random.key(0))
    seen, masked, made = (np.asarray(shown[name]) for name in ("input", "masked", "reconstruction"))
    np.testing.assert_array_equal(seen, batch_of()["image"])
    grey = (masked == 128).all(-1) | (masked == 127).all(-1)
    assert 0.5 < grey.mean() < 0.7  # six tenths of the patches
    np.testing.assert_array_equal(made[~grey], seen[~grey])


def test_features_do_not_depend_on_the_key_nor_on_the_rest_of_the_batch():
    built = build(config_of("quickstart"))
    variables = built.objective.export(state_of(built))
    features = jax.jit(built.objective.predict["features"])
    whole = features(variables, batch_of(), jax.random.key(0))
    part = {k: v[:3] for k, v in batch_of().items()}
    np.testing.assert_allclose(features(variables, part, jax.random.key(1)), whole[:3], atol=1e-6)
