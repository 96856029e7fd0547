import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vitjax import models, trees
from vitjax.errors import UserError
from vitjax.models import resnet


def config(**changes):
    c = ConfigDict(
        dict(name="resnet", depth=18, width=64, stem="imagenet", zero_init_residual=True)
    )
    c.update(changes)
    return c


def shapes(module, size_px=32):
    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), images)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_running_statistics_are_two_numbers_a_channel():
    assert count(shapes(models.build(config(depth=50)))["batch_stats"]) == 53_120


@pytest.mark.parametrize("stem, places", [("imagenet", 1), ("cifar", 4), ("cifar_half", 2)])
def test_the_cifar_stem_keeps_the_resolution_or_halves_it(stem, places):
    module = models.build(config(stem=stem))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    out = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], images)
    assert out["tokens"].shape == (2, places, places, 512)
    assert out["features"].shape == (2, 512)


def test_zero_init_residual_zeroes_the_last_scale_of_each_block_only():
    module = resnet.ResNet(blocks=(2, 1), bottleneck=True, width=4, stem="cifar")
    flat = trees.flatten(jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"])
    zero = {path for path, leaf in flat.items() if path.endswith("/scale") and not np.any(leaf)}
    assert zero == {f"{block}/norm3/scale" for block in ("stage1_0", "stage1_1", "stage2_0")}


def test_training_moves_the_running_statistics_and_evaluation_does_not():
    module = resnet.ResNet(blocks=(1, 1), bottleneck=False, width=4, stem="cifar")
    images = 1 + jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = jax.jit(module.init)(jax.random.key(0), images)

    @functools.partial(jax.jit, static_argnums=0)
    def statistics(train):
        return module.apply(variables, images, train, mutable=["batch_stats"])[1]["batch_stats"]

    before = variables["batch_stats"]
    assert not np.allclose(statistics(True)["stem_norm"]["mean"], before["stem_norm"]["mean"])
    jax.tree.map(np.testing.assert_array_equal, statistics(False), before)


@pytest.mark.parametrize(
    "changes, match",
    [
        (dict(depth=20), "config.model.depth=20 is not known; choose from 10, 18, 34, 50, 101, 152"),
        (dict(stem="small"), "config.model.stem='small' is not known; choose from imagenet, cifar, cifar_half"),
        (dict(width=0), "config.model.width=0 must be 1 or more"),
    ],
)
def test_a_wrong_setting_is_named(changes, match):
    with pytest.raises(UserError, match=match):
        models.build(config(**changes))
