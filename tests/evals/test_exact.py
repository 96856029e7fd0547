"""Every evaluator's number is that of a plain loop over the pictures, for any batch size and device count."""

import numpy as np
import pytest
from own_methods import stateful_config
from sklearn.linear_model import LogisticRegression
from steps import mesh_of
from test_knn import loop as knn_loop

from vitjax import evaluate, experiment
from vitjax.config import Tracked, accuracy_eval, knn_eval, linear_eval
from vitjax.data import sources
from vitjax.data.batches import order
from vitjax.data.digits import DigitsSource

N, K, PX, WIDTH, CLASSES = 1003, 20, 16, 16, 10
FEW = 301


class Digits:
    """1,003 real digits to test on, and 434 others as their training split."""

    class_names = {"label": tuple("0123456789")}

    def __init__(self, data, split):
        digits = DigitsSource("train", data.size_px)
        self.records = [digits[i] for i in (range(N) if split == "test" else range(N, len(digits)))]

    def __len__(self):
        return len(self.records)

    def __getitem__(self, i):
        return self.records[i]

    def name(self, i):
        return str(i)


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    monkeypatch.setattr(sources, "open_source", Digits)


def config_of(batch_size, examples=0):
    config = stateful_config.get_config()
    config.batch_size, config.data.size_px, config.data.canvas_px = batch_size, PX, PX
    shared = dict(eval_examples=examples)
    config.evals.knn = knn_eval(**shared, baselines=(), train_examples=examples)
    config.evals.linear = linear_eval(**shared, baselines=(), train_examples=examples)
    config.evals.accuracy = accuracy_eval(**shared)
    return config


def weights(outputs):
    """Whole numbers, so that products with pixels are exact in float32 in any order.

    The features are sums over squares of 4 x 4 pixels; the logits are anything.
    """
    if outputs == WIDTH:
        square = np.arange(PX) // 4
        square = np.repeat(4 * square[:, None] + square, 3).reshape(-1)
        return np.eye(WIDTH, dtype=np.float32)[square]
    return np.random.default_rng(outputs).integers(-3, 4, (PX * PX * 3, outputs)).astype(np.float32)


def predict(outputs):
    def function(variables, batch, key):
        return batch["image"].reshape(len(batch["image"]), -1).astype(np.float32) @ variables[str(outputs)]

    return function


def measured(batch_size, devices, examples=0, **more):
    """The numbers as a run gets them: through its loader, its splits and its evaluators."""
    config = Tracked(config_of(batch_size, examples))
    mesh = mesh_of((1, devices, 1)) if devices < 8 else mesh_of((2, 4, 1))
    built = experiment.prepare(config, sources.open_source(config.data, "train"), None)
    objective = built.objective._replace(predict={"features": predict(WIDTH), "logits": predict(CLASSES)})
    built = built._replace(objective=objective)
    splits = evaluate.Splits(config, mesh)
    variables = {str(n): weights(n) for n in (WIDTH, CLASSES)}
    return evaluate.evaluate(built, evaluate.prepare(built, splits), variables, splits, mesh, **more)


def records(split, examples):
    """The pictures, flat, and their labels, one record after the other."""
    source = Digits(config_of(16).data, split)
    numbers = range(len(source)) if not examples else sorted(order(np.arange(examples), len(source), 0).tolist())
    found = [source[i] for i in numbers]
    x = np.stack([record["image"].reshape(-1) for record in found]).astype(float)
    return x, np.array([record["label"] for record in found])


def expected(penalty, examples=0):
    """Accuracies by loops in numpy, and the linear probe's by scikit-learn."""
    (x, y), (test_x, test_y) = records("train", examples), records("test", examples)
    right = [np.argmax(picture @ weights(CLASSES)) == label for picture, label in zip(test_x, test_y)]
    x, test_x = x @ weights(WIDTH), test_x @ weights(WIDTH)
    near = knn_loop(x, y, test_x, K, 0.07)
    mean, std = x.mean(0), x.std(0)
    probe = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-8, max_iter=5000).fit((x - mean) / std, y)
    fitted = probe.predict((test_x - mean) / std)
    return {"accuracy": np.mean(right), "knn": np.mean(near == test_y), "linear": np.mean(fitted == test_y)}


@pytest.mark.parametrize("examples", [0, FEW])
def test_evaluators_equal_plain_loops(examples):
    n = examples or N
    cases = [(16, 8), (64, 1), (250, 2), (1008, 8)] if not examples else [(16, 8), (250, 2), (301, 1)]
    all_numbers = [measured(*case, examples) for case in cases]
    wanted = expected(all_numbers[0]["eval/linear/penalty"], examples)
    for case, numbers in zip(cases, all_numbers):
        for name, accuracy in wanted.items():
            assert (numbers[f"eval/{name}/n"], numbers[f"eval/{name}/n_bad"]) == (n, 0), case
            # One near tie may turn in float32; the classifier's numbers are whole and have none.
            slack = 0 if name == "accuracy" else 1.01 / n
            assert abs(numbers[f"eval/{name}/accuracy"] - accuracy) <= slack, (case, name)
    assert 0.3 < min(wanted["knn"], wanted["linear"]) and max(wanted.values()) < 0.98, "labels of others would show"


def test_what_is_being_done_is_told_under_the_evaluators_names():
    told = []
    measured(64, 8, FEW, tell=told.append)
    for wanted in ("knn: split 'train', batch 1", "knn: comparing with", "linear: solving, pass 2 over", "accuracy: "):
        assert any(what.startswith(wanted) for what in told), wanted
