"""An update is that of the global batch, however it is cut: over devices, or into parts one after the other."""

import jax
import numpy as np
import pytest
from steps import batch_of, build, config_of, mesh_of, trained

from vitjax import experiment, trees

# devices x pictures on each x parts
CUTS = {"8 x 32": (8, 1), "1 x 256": (1, 1), "1 x 64 x 4": (1, 4)}


def config(name, accum):
    made = config_of(name, 256, 16, accum, scan=False, depth=1)
    if name == "mae_vitb":
        made.objective.mask_ratio = 0.5
    made.optim.update(dict(name="sgd", base_lr=0.1, base_batch=0))
    return made


@pytest.mark.parametrize("name", ["mae_vitb", "supervised_vits"])
def test_an_update_does_not_depend_on_how_the_batch_is_cut(name):
    ends = {}
    for cut, (devices, accum) in CUTS.items():
        state, losses = trained(build(config(name, accum)), mesh_of((1, devices, 1)), steps=2)
        ends[cut] = {"loss": np.asarray(losses)} | trees.flatten(state.params)
    expected = ends.pop("1 x 256")
    for cut, end in ends.items():
        for path, x in end.items():
            np.testing.assert_allclose(x, expected[path], atol=1e-5, rtol=1e-5, err_msg=f"{cut}: {path}")


@pytest.mark.parametrize("labelled", [(0, 1, 2, 3), (1,), ()])
def test_parts_without_any_label_count_for_nothing(labelled):
    """Part i of 4 holds the rows i, i + 4, ...; those of `labelled` have labels, and the others none."""
    updates = []
    for accum in (1, 4):
        built = build(config("supervised_vits", accum))
        state = jax.jit(lambda built=built: experiment.fresh(built, 0))()
        batch = batch_of(built, 0)
        known = np.isin(batch["row"] % 4, labelled)
        batch["label"] = np.where(known & (np.arange(256) < 50), np.abs(batch["label"]), -1).astype(np.int32)
        new, metrics = jax.jit(built.objective.update)(state, batch, jax.random.key(0))
        updates.append({"loss": metrics["loss"], "skipped": metrics["skipped"]} | trees.flatten(new.params))
    for path, x in updates[0].items():
        np.testing.assert_allclose(x, updates[1][path], atol=1e-6, err_msg=path)
    assert updates[0]["skipped"] == 0 and (updates[0]["loss"] > 0) == bool(labelled)
