import time

import jax
import numpy as np
import pytest
from fake_batches import clusters, extractor_of, host_batches
from ml_collections import ConfigDict
from sklearn.linear_model import LogisticRegression

import vitjax
from vitjax import config, sharding, supervisor
from vitjax.errors import UserError
from vitjax.evals import lbfgs, linear, logistic
from vitjax.objective import Run


def mesh(devices=8):
    shape = dict(data=2 if devices > 1 else 1, fsdp=-1, tensor=1)
    return sharding.make_mesh(ConfigDict(shape), jax.devices()[:devices])


def skewed(n, seed=0, classes=5, width=24):
    """Clusters seen through a badly conditioned mixture, with an offset and a constant feature."""
    x, y = clusters(n, classes, width, seed, spread=1.0)
    mix = np.random.default_rng(5).normal(size=(width, width)) * 3.0 ** -(np.arange(0, width)[:, None] ** 0.7)
    return np.concatenate([x @ mix + 50, np.full((n, 1), 3.0)], 1).astype(np.float32), y


def loss(x, y, kernel, bias, penalty):
    logits = x @ kernel + bias
    logits -= logits.max(1, keepdims=True)
    nats = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
    return nats.mean() + penalty / 2 * np.square(kernel).sum()


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
def test_solution_is_the_one_that_scikit_learn_finds(penalty, monkeypatch):
    x, y = skewed(1003)
    monkeypatch.setattr(linear, "PENALTIES", (penalty,))
    probe = linear.fit(x, y[:, None], mesh())
    z = ((x - probe.mean) * probe.scale).astype(float)
    other = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-8, max_iter=5000).fit(z, y)
    ours = loss(z, y, probe.kernel.astype(float), probe.bias, penalty)
    assert abs(ours - loss(z, y, other.coef_.T, other.intercept_, penalty)) < 1e-6
    test_x, _ = skewed(2000, seed=1)
    expected = other.predict((test_x - probe.mean) * probe.scale)
    assert np.mean(probe.predict(test_x)[:, 0] == expected) > 0.998
    assert probe.converged and probe.iterations < 25


def test_one_device_equals_eight():
    x, y = skewed(503)
    one, eight = (linear.fit(x, y[:, None], mesh(devices)) for devices in (1, 8))
    assert one.penalty == eight.penalty
    np.testing.assert_allclose(one.kernel, eight.kernel, atol=2e-3 * np.abs(one.kernel).max())


def test_fields_solved_together_equal_each_alone():
    x, y = skewed(600)
    fields = np.stack([y, y % 2, y // 2], -1)
    together = linear.fit(x, fields, mesh())
    test_x, _ = skewed(1000, seed=1)
    predicted = together.predict(test_x)
    for i in range(3):
        alone = linear.fit(x, fields[:, i : i + 1], mesh())
        assert alone.penalty[0] == together.penalty[i]
        assert np.mean(alone.predict(test_x)[:, 0] == predicted[:, i]) > 0.998


def test_weak_features_get_a_stronger_penalty_than_strong_ones():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 60)).astype(np.float32)
    weak, y = clusters(400, 3, 5, spread=3.0)
    clear, _ = clusters(400, 3, 5, spread=0.8)
    few, many = (linear.fit(x, y[:, None], mesh(1)).penalty[0] for x in (clear, np.hstack([weak, noise])))
    assert few < many


def test_penalty_is_chosen_without_the_test_split():
    (x, y), (test_x, test_y) = skewed(400), skewed(300, seed=1)
    settings = config.linear_eval()
    run = Run(1, 1.0, 8, {"label": jax.ShapeDtypeStruct((8,), np.int32)}, {}, np.float32)
    evaluator = linear.make(settings, run)
    seen = []

    def metrics(labels):
        def batches(split, limit):
            seen.append(split)
            sets = {"train": (x, y), "test": (test_x, labels)}[split]
            return host_batches(sets[0], {"label": sets[1]}, 64)

        return evaluator.evaluate(extractor_of(batches, run.batch_spec, mesh()), mesh())

    honest, shuffled = metrics(test_y), metrics(np.random.default_rng(0).permutation(test_y))
    assert seen == ["train", "test"] * 2
    for name in ("penalty", "iterations", "converged"):
        assert honest[name] == shuffled[name]
    assert honest["accuracy"] > 0.6 and abs(shuffled["accuracy"] - 0.2) < 0.1
    assert honest["n"] == 300 and honest["n_bad"] == 0


def test_noise_for_features_gives_chance():
    (x, y), (test_x, test_y) = skewed(1500), skewed(1000, seed=1)
    assert vitjax.linear_probe(x, y, test_x, test_y) > 0.6
    noise = np.random.default_rng(0).normal(size=(2500, 25))
    assert abs(vitjax.linear_probe(noise[:1500], y, noise[1500:], test_y) - 0.2) < 0.05


def test_several_fields_are_reported_each_and_their_mean():
    fields = ("label/shape", "label/hue")
    spec = {field: jax.ShapeDtypeStruct((8,), np.int32) for field in fields}
    evaluator = linear.make(config.linear_eval(fields=fields), Run(1, 1.0, 8, spec, {}, np.float32))
    sets = {"train": skewed(300), "test": skewed(50, seed=1)}

    def batches(split, limit):
        x, y = sets[split]
        return host_batches(x, {"label/shape": y, "label/hue": y % 2}, 16, bad=[7, 49])

    metrics = evaluator.evaluate(extractor_of(batches, spec, mesh()), mesh())
    each = [metrics["shape/accuracy"], metrics["hue/accuracy"]]
    assert metrics["accuracy"] == pytest.approx(np.mean(each)) and 0.5 < min(each)
    assert {"shape/penalty", "hue/penalty"} < set(metrics)
    assert (metrics["n"], metrics["n_bad"], metrics["converged"]) == (48, 2, 1.0)


def test_one_class_only_is_refused():
    x, y = skewed(50)
    with pytest.raises(UserError, match="one class only"):
        vitjax.linear_probe(x, np.zeros(50, int), x)
    spec = {"label": jax.ShapeDtypeStruct((8,), np.int32)}
    evaluator = linear.make(config.linear_eval(), Run(1, 1.0, 8, spec, {}, np.float32))
    with pytest.raises(UserError, match="config.evals.linear.fields.*one class in 'label'"):
        evaluator.evaluate(
            extractor_of(lambda *_: host_batches(x, {"label": np.zeros(50, int)}, 16), ["label"], mesh()),
            mesh(),
        )


def test_labels_may_be_names_with_a_class_that_only_the_test_set_has():
    x, y = clusters(200, 3, spread=0.1)
    names = np.array(["cat", "dog", "fox"])[y]
    known = names != "fox"
    predicted = vitjax.linear_probe(x[known], names[known], x)
    np.testing.assert_array_equal(predicted[known], names[known])
    assert set(predicted) == {"cat", "dog"}


def test_solver_finds_the_minima_of_quadratics_of_different_shape():
    rng = np.random.default_rng(0)
    shapes = [np.diag(10.0 ** np.linspace(0, e, 30)) for e in (0, 2, 3)]
    targets = rng.normal(size=(30, 3))

    def gradient(u):
        return np.stack([a @ (u[:, i] - targets[:, i]) for i, a in enumerate(shapes)], -1)

    zero = np.zeros((30, 3))
    solved = lbfgs.minimise(gradient, zero, gradient(zero), np.arange(3), np.full(3, 1e-8), 500)
    assert solved.converged
    np.testing.assert_allclose(solved.u, targets, atol=1e-6)


def test_solver_says_when_it_did_not_arrive():
    def gradient(u):
        return 10.0 ** np.linspace(0, 6, 30)[:, None] * (u - 1)

    zero = np.zeros((30, 1))
    solved = lbfgs.minimise(gradient, zero, gradient(zero), np.arange(1), np.full(1, 1e-9), 3)
    assert solved.iterations == 3 and not solved.converged


def test_the_solver_tells_of_every_pass_over_the_features(monkeypatch):
    told, passes, slope = [], [], logistic._slope
    monkeypatch.setattr(logistic, "_slope", lambda *args: passes.append(1) or slope(*args))
    x, y = skewed(300)
    linear.fit(x, y[:, None], mesh(), told.append)
    assert len(told) == len(passes) > 20
    assert told[-1] == f"solving, pass {len(passes)} over the features"


def test_a_solver_that_takes_longer_than_the_watchdog_waits_is_not_taken_for_a_hang(monkeypatch):
    left, slope = [], logistic._slope
    x, y = skewed(300)
    linear.fit(x, y[:, None], mesh())  # compiles
    monkeypatch.setattr(logistic, "_slope", lambda *args: time.sleep(0.1) or slope(*args))
    watched = supervisor.Supervisor(
        command="", newest=str, grace_s=9.0, watchdog_s=2.0, preempted_exit_code=143, leave=left.append
    )
    with watched:
        watched.enter(supervisor.EVALUATING)
        began = time.monotonic()
        linear.fit(x, y[:, None], mesh(), lambda what: watched.enter(supervisor.EVALUATING))
    assert time.monotonic() - began > 4.0 and not left
