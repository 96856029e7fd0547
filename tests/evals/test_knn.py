import jax
import numpy as np
import pytest
from fake_batches import clusters, extractor_of, host_batches
from golden import wave
from ml_collections import ConfigDict

import vitjax
from vitjax import config, sharding
from vitjax.errors import UserError
from vitjax.evals import knn
from vitjax.objective import Run

# Weighted vote on bank wave(1, (12, 5)), labels i % 3, queries wave(100, (3, 5)), k = 5, T = 0.07.
NEIGHBOURS = [[11, 6, 1, 2, 7], [7, 2, 3, 8, 11], [8, 3, 7, 4, 2]]
SCORES = [
    [0.3647056883714495, 0.2130538696780733, 0.4222404419504771],
    [0.0032514714268183443, 0.5559819110825878, 0.4407666174905938],
    [0.40627158874704666, 8.42706683543203e-05, 0.593644140584599],
]
PREDICTED = [2, 1, 2]


def mesh(devices=8):
    shape = dict(data=2 if devices > 1 else 1, fsdp=-1, tensor=1)
    return sharding.make_mesh(ConfigDict(shape), jax.devices()[:devices])


def loop(bank, labels, queries, k, temperature):
    """The definition, picture by picture."""
    bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    out = []
    for query in queries / np.linalg.norm(queries, axis=1, keepdims=True):
        cosines = bank @ query
        votes = np.zeros(labels.max() + 1)
        for i in np.argsort(-cosines, kind="stable")[:k]:
            votes[labels[i]] += np.exp(cosines[i] / temperature)
        out.append(votes.argmax())
    return np.array(out)


def test_neighbours_scores_and_classes_equal_the_golden_ones():
    bank, labels, queries = wave(1, (12, 5)), np.arange(12) % 3, wave(100, (3, 5))
    cosines, rows = knn.nearest(bank, queries, 5, mesh())
    np.testing.assert_array_equal(rows, NEIGHBOURS)
    np.testing.assert_allclose(knn.scores(cosines, labels[rows], 0.07, 3), SCORES, atol=2e-6)
    np.testing.assert_array_equal(vitjax.knn(bank, labels, queries, k=5, temperature=0.07), PREDICTED)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("bank_rows, query_rows, query_numbers", [(8192, 1024, 2**28), (96, 40, 13 * 150)])
def test_equals_a_numpy_loop_however_the_work_is_cut(
    devices, bank_rows, query_rows, query_numbers, monkeypatch
):
    monkeypatch.setattr(knn, "BANK_ROWS", bank_rows)
    monkeypatch.setattr(knn, "QUERY_ROWS", query_rows)
    monkeypatch.setattr(knn, "QUERY_NUMBERS", query_numbers)
    (bank, labels), (queries, _) = clusters(2003), clusters(1003, seed=1)
    found = knn.classify(bank, labels, queries, k=20, temperature=0.07, mesh=mesh(devices))
    expected = loop(bank.astype(float), labels, queries.astype(float), 20, 0.07)
    assert (found != expected).sum() <= 1  # float32 may turn one near tie


def test_equally_near_pictures_count_from_the_lowest_row(monkeypatch):
    monkeypatch.setattr(knn, "BANK_ROWS", 2 * knn.GROUP)
    bank = np.ones((5 * knn.GROUP, 4), np.float32)
    bank[40] = [1, 2, 3, 4]
    _, rows = knn.nearest(bank, np.array([[1, 2, 3, 4]]), 4, mesh(1))
    np.testing.assert_array_equal(rows, [[40, 0, 1, 2]])


@pytest.mark.parametrize("k", [1, 5, 20])
def test_search_by_groups_equals_sorting_with_ties_kept_in_order(k):
    x = np.random.default_rng(0).integers(0, 50, (17, 64 * knn.GROUP)).astype(np.float32)
    values, indices = jax.jit(knn._top_k, static_argnums=1)(x, k)
    expected = np.argsort(-x, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(x, expected, 1))


def test_a_tiny_temperature_does_not_overflow():
    bank, labels = clusters(100)
    nearest_label = loop(bank.astype(float), labels, bank.astype(float), 1, 1.0)
    np.testing.assert_array_equal(vitjax.knn(bank, labels, bank, k=20, temperature=1e-5), nearest_label)


def test_shuffled_labels_give_chance():
    (bank, labels), (queries, truth) = clusters(2000), clusters(1000, seed=1)
    assert vitjax.knn(bank, labels, queries, truth) > 0.5
    shuffled = np.random.default_rng(0).permutation(labels)
    assert abs(vitjax.knn(bank, shuffled, queries, truth) - 1 / 7) < 0.05


def test_labels_may_be_names():
    bank, labels = clusters(50)
    names = np.array(["ant", "bee", "cat", "dog", "elk", "fox", "gnu"])[labels]
    np.testing.assert_array_equal(vitjax.knn(bank, names, bank, k=1), names)


@pytest.mark.parametrize(
    "k, temperature, match",
    [(13, 0.07, "k=13.*12 training"), (0, 0.07, "k=0"), (5, 0.0, "temperature=0")],
)
def test_settings_out_of_range_are_refused(k, temperature, match):
    with pytest.raises(UserError, match=match):
        vitjax.knn(wave(1, (12, 5)), np.arange(12) % 3, wave(2, (3, 5)), k=k, temperature=temperature)


def run(*fields):
    spec = {field: jax.ShapeDtypeStruct((8,), np.int32) for field in fields}
    return Run(1, 1.0, 8, spec, {}, np.float32)


def test_unknown_field_is_refused_and_the_known_ones_are_listed():
    settings = config.knn_eval(fields=("label/shade",))
    with pytest.raises(UserError, match=r"config.evals.knn.fields.*label/shade.*label/shape, label/hue"):
        knn.make(settings, run("label/shape", "label/hue"))


def test_data_without_labels_is_refused():
    with pytest.raises(UserError, match="no labels"):
        knn.make(config.knn_eval(), run())


def test_k_above_the_limit_of_training_examples_is_refused_at_once():
    with pytest.raises(UserError, match="k=20"):
        knn.make(config.knn_eval(train_examples=10), run("label"))


def test_evaluation_counts_every_picture_once_and_reports_each_field_and_the_mean():
    settings = config.knn_eval(fields=("label/a", "label/b"))
    settings.k = 3
    evaluator = knn.make(settings, run("label/a", "label/b"))
    sets = {"train": clusters(300), "test": clusters(61, seed=1)}

    def batches(split, limit):
        x, y = sets[split]
        return host_batches(x, {"label/a": y, "label/b": np.arange(len(x)) % 2}, size=16)

    assert evaluator.needs == ("features",)
    metrics = evaluator.evaluate(extractor_of(batches, ["label/a", "label/b"], mesh()), mesh())
    expected = loop(sets["train"][0].astype(float), sets["train"][1], sets["test"][0].astype(float), 3, 0.07)
    assert metrics["a/accuracy"] == pytest.approx(np.mean(expected == sets["test"][1]), abs=1 / 61)
    assert metrics["accuracy"] == pytest.approx((metrics["a/accuracy"] + metrics["b/accuracy"]) / 2)
    assert (metrics["n"], metrics["n_bad"]) == (61, 0)


def test_each_block_of_the_bank_is_told_of(monkeypatch):
    monkeypatch.setattr(knn, "BANK_ROWS", 64)
    told = []
    (bank, _), (queries, _) = clusters(300), clusters(8, seed=1)
    knn.nearest(bank, queries, 3, mesh(), told.append)
    assert told == [f"comparing with the training pictures from {start} of 300" for start in range(0, 300, 64)]
