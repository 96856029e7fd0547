"""Classification as an objective."""

import jax
import numpy as np
import pytest
from objective_of import batch_of, build, config_of

from vitjax import experiment
from vitjax.errors import UserError


def update_of(config, batch):
    built = build(config)
    state = jax.jit(lambda: experiment.fresh(built, 0))()
    return jax.jit(built.objective.update)(state, batch, jax.random.key(0))


def test_a_fresh_classifier_is_at_chance():
    _, metrics = update_of(config_of("supervised_vits"), batch_of())
    np.testing.assert_allclose(metrics["loss"], np.log(5), rtol=1e-5)
    np.testing.assert_allclose(metrics["chance"], np.log(5), rtol=1e-6)


@pytest.mark.parametrize("accum", [1, 2])
def test_pictures_without_a_label_change_nothing(accum):
    """Their labels are -1, and an index of -1 would be the last class."""
    config = config_of("supervised_vits")
    config.accum = accum
    labels = np.array([0, 1, -1, 2, -1, -1, 3, 4])
    whole, metrics = update_of(config, batch_of(labels))
    other = batch_of(labels)
    other["image"][labels < 0] = 7
    changed, same = update_of(config, other)
    np.testing.assert_allclose(metrics["loss"], same["loss"], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(changed.params)):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_batch_statistics_move_with_training():
    built = build(config_of("supervised_resnet50"))
    before = jax.jit(lambda: experiment.fresh(built, 0))()
    after, _ = jax.jit(built.objective.update)(before, batch_of(), jax.random.key(0))
    leaves = zip(jax.tree.leaves(before.extra["batch_stats"]), jax.tree.leaves(after.extra["batch_stats"]))
    assert all(not np.array_equal(a, b) for a, b in leaves)


def test_labels_that_the_data_does_not_have_are_refused():
    config = config_of("supervised_vits")
    config.objective.label = "label/colour"
    with pytest.raises(UserError, match=r"objective\.label='label/colour'.*it has label"):
        build(config)


def test_accumulation_is_refused_where_batch_norm_would_see_parts():
    config = config_of("supervised_resnet50")
    config.accum = 2
    with pytest.raises(UserError, match=r"config\.accum=2.*normalises over them"):
        build(config)
