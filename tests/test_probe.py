"""The online probe: it learns, and what it looks at does not know."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toys
from objectives.objective_of import batch_of, build, config_of

from vitjax import probe, sharding, trees
from vitjax.errors import UserError
from vitjax.objective import Output, from_loss


def probe_of(field="label", lr=0.1, classes=4):
    config = SimpleNamespace(probe=SimpleNamespace(field=field, lr=lr))
    return probe.make(config, SimpleNamespace(class_names={"label": tuple(map(str, range(classes)))}))


def labelled(size=64, seed=0):
    batch = toys.batch_of(size, seed)
    return {**batch, "label": jnp.argmax(batch["x"][:, :4], -1).astype(jnp.int32)}


def objective_of(accum=1, watcher=None, embed_chunks=0, features=True):
    """A regression whose features are a fixed turn of the input, scaled and shifted."""
    turn = jnp.asarray(np.linalg.qr(np.random.default_rng(1).normal(size=(toys.D, toys.D)))[0], jnp.float32)

    def seen(batch):
        return 1000 * batch["x"] @ turn + 5 if features else None

    def loss(params, extra, batch, key, step):
        assert probe.NAME not in extra
        value = jnp.mean((batch["x"] @ params["w"] - 1) ** 2)
        return value, Output(extra, weight=len(batch["x"]), features=seen(batch))

    def of_embedded(params, extra, embedded, batch, key, step):
        return jnp.mean((embedded - 1) ** 2), Output(extra, features=seen(batch))

    return from_loss(
        init=lambda key, batch: {"params": {"w": jax.random.normal(key, (toys.D,))}},
        loss=of_embedded if embed_chunks else loss,
        embed=(lambda params, extra, batch, *_: (batch["x"] @ params["w"], extra)) if embed_chunks else None,
        embed_chunks=max(embed_chunks, 1), accum=accum, tx=optax.sgd(0.01), probe=watcher,
        export=lambda state: {"params": state.params, **state.extra}, predict={},
    )  # fmt: skip


def trained(objective, steps=10, size=64, batch=labelled):
    state = jax.jit(objective.init)(jax.random.key(0), batch(size))
    update = jax.jit(objective.update)
    for step in range(steps):
        state, metrics = update(state, batch(size, step), jax.random.key(step))
    return state, metrics


def assert_same(a, b):
    for path, x in trees.flatten(a).items():
        np.testing.assert_array_equal(x, trees.flatten(b)[path], err_msg=path)


def test_it_learns_what_is_linear_whatever_the_scale_and_shift_of_the_features():
    first, metrics = trained(objective_of(watcher=probe_of()), steps=1)
    np.testing.assert_allclose(metrics["probe/loss"], np.log(4), rtol=1e-5)
    _, metrics = trained(objective_of(watcher=probe_of()), steps=100)
    assert metrics["probe/accuracy"] > 0.8 and metrics["probe/loss"] < 0.5


def test_it_learns_the_same_from_pieces():
    whole, metrics = trained(objective_of(watcher=probe_of()))
    for pieces in (dict(accum=4), dict(embed_chunks=1), dict(embed_chunks=4)):
        parts, same = trained(objective_of(watcher=probe_of(), **pieces))
        for path, x in trees.flatten(whole.extra["probe"]).items():
            np.testing.assert_allclose(trees.flatten(parts.extra["probe"])[path], x, atol=1e-5, err_msg=path)
        np.testing.assert_allclose(same["probe/loss"], metrics["probe/loss"], rtol=1e-4)


def test_pictures_without_a_label_teach_it_nothing():
    def some(size, seed=0):
        batch = labelled(size, seed)
        return {**batch, "label": jnp.where(jnp.arange(size) % 2 == 0, batch["label"], -1)}

    def none(size, seed=0):
        return {**labelled(size, seed), "label": jnp.full(size, -1)}

    _, metrics = trained(objective_of(watcher=probe_of()), steps=100, batch=some)
    assert metrics["probe/accuracy"] > 0.4
    state, metrics = trained(objective_of(watcher=probe_of()), batch=none)
    assert not np.any(state.extra["probe"]["params"]["kernel"]) and metrics["probe/accuracy"] == 0


def of_method(watched):
    """SimSiam on points, with batch norm, and batches with labels."""
    return toys.siamese(stop=True, probe=probe_of() if watched else None), labelled


def of_config(watched):
    config = config_of("quickstart")
    config.model.depth, config.probe.field = 1, "label" if watched else ""
    return build(config).objective, lambda size, seed=0: batch_of(seed=seed)


@pytest.mark.parametrize("made", [of_method, of_config])
def test_a_network_is_the_same_to_the_bit_with_it_and_without_it(made):
    ends = []
    for watched in (False, True):
        objective, batch = made(watched)
        state, metrics = trained(objective, steps=2, batch=batch)
        ends.append((objective.export(state), state.opt, metrics))
    (variables, opt, metrics), (with_probe, opt_too, metrics_too) = ends
    assert_same(variables, with_probe)
    assert_same(opt, opt_too)
    assert_same(metrics, metrics_too)
    assert trees.flatten(variables).keys() == trees.flatten(with_probe).keys()
    assert set(metrics_too) - set(metrics) == {"probe/loss", "probe/accuracy"}


def test_it_is_sharded_and_learns_the_same_on_eight_devices():
    one, _ = trained(objective_of(watcher=probe_of()), steps=3)
    mesh = sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))
    with sharding.use(mesh):
        many, _ = trained(
            objective_of(watcher=probe_of()), steps=3,
            batch=lambda size, seed=0: jax.device_put(labelled(size, seed), sharding.batch_sharding(mesh)),
        )  # fmt: skip
    for path, x in trees.flatten(one.extra).items():
        np.testing.assert_allclose(trees.flatten(many.extra)[path], x, atol=1e-5, err_msg=path)
    big = jax.eval_shape(lambda: {"extra": {"probe": probe_of(classes=1000).init((8, 512))}})
    specs = trees.flatten(sharding.shardings(big, mesh))
    for path in ("extra/probe/params/kernel", "extra/probe/opt/0/mu/kernel"):
        assert specs[path].spec == jax.sharding.PartitionSpec(None, "fsdp"), path


def test_what_is_not_finite_is_forgotten_by_the_probe_alone():
    watcher = probe_of()
    state = watcher.init((8, 3))
    features, batch = jnp.ones((8, 3)).at[2, 1].set(jnp.inf), {"label": jnp.zeros(8, jnp.int32)}
    after, metrics = watcher.update(state, features, batch)
    assert not np.isfinite(metrics["probe/loss"])
    assert_same(state, after)


def test_settings_that_make_no_sense_are_refused():
    assert probe_of(field="") is None
    with pytest.raises(UserError, match=r"config\.probe\.field='colour' is no label of this data; it has label"):
        probe_of(field="colour")
    with pytest.raises(UserError, match=r"config\.probe\.lr=0 must be above 0"):
        probe_of(lr=0)
    with pytest.raises(UserError, match=r"config\.probe\.field.*no features"):
        trained(objective_of(watcher=probe_of(), features=False))
