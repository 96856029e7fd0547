"""Linear probe: multinomial logistic regression on frozen features, solved to convergence.

minimise over W, b:   mean cross-entropy(softmax(x W + b), y) + penalty / 2 * |W|^2

with features standardised by the training set's mean and deviation. The problem is convex, so there is
nothing to tune but the penalty, and that is chosen on pictures held out from the training split; the test
split is looked at once, at the end. The choice goes by their cross-entropy, which is smooth in the penalty;
their accuracy is noisy where they are few, and flat where classes are of unequal size.

Source: the protocol of CLIP, https://arxiv.org/abs/2103.00020, section A.3 (L-BFGS, a sweep of penalties).
"""

from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from vitjax.errors import UserError
from vitjax.evals import Evaluator, features
from vitjax.evals.logistic import TILE_ROWS, Problem

PENALTIES = tuple(10.0 ** (e / 2) for e in range(2, -13, -1))  # 10 to 1e-6, tried in this order
PATIENCE = 2  # penalties without a gain for any field, after which weaker ones are not tried
HELD_OUT = 0.1  # of the training pictures
TOLERANCE = 1e-4  # of the gradient's norm against that at W = 0; leaves less than 1e-7 of loss
TOLERANCE_PATH = 1e-3  # while the penalty is being chosen; at 1e-2 rounding, and so the device count, chose


def make(config: Any, run: Any) -> Evaluator:
    """The evaluator 'linear': accuracy on config.eval_split of a probe trained on config.train_split.

    Raises:
      UserError: a field that the data set does not have.
    """
    fields = features.chosen_fields(config, run)
    train_split, eval_split = config.train_split, config.eval_split
    train_examples, eval_examples = config.train_examples, config.eval_examples

    def evaluate(extract: features.Extract, mesh: Mesh) -> dict[str, float]:
        train = extract("features", train_split, train_examples, fields)
        features.check_classes(train.labels, config.name, train_split)
        probe = fit(train.x, np.stack([train.labels[field] for field in fields], -1), mesh, extract.tell)
        test = extract("features", eval_split, eval_examples, fields)
        predicted = probe.predict(test.x)
        correct = {field: predicted[:, i] == test.labels[field] for i, field in enumerate(fields)}
        metrics = features.summary(correct, test, {"penalty": dict(zip(fields, probe.penalty))})
        return {**metrics, "iterations": probe.iterations, "converged": float(probe.converged)}

    return Evaluator(("features",), (train_split, eval_split), evaluate)


def linear_probe(
    train_x: Float[np.ndarray, "n D"],
    train_y: Int[np.ndarray, " n"],
    test_x: Float[np.ndarray, "m D"],
    test_y: Int[np.ndarray, " m"] | None = None,
) -> Int[np.ndarray, " m"] | float:
    """The accuracy on the test features, or the predicted classes where `test_y` is left out.

        vitjax.linear_probe(model.features(train), labels, model.features(test), test_labels)

    Features need no scaling, and the penalty is chosen on a tenth of the training rows. Labels may be
    numbers or names.

    Raises:
      UserError: the training labels are all of one class, or features and labels do not go together.
    """
    features.check_rows(train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)
    train_y = np.asarray(train_y)
    if len(train_y) < 2 or (train_y == train_y[0]).all():
        raise UserError("linear_probe: train_y holds one class only, so there is nothing to tell apart")
    probe = fit(np.asarray(train_x), train_y[:, None], features.mesh_or_all(None))
    predicted = probe.predict(np.asarray(test_x))[:, 0]
    return predicted if test_y is None else float(np.mean(predicted == np.asarray(test_y)))


class Probe(NamedTuple):
    """A solved probe of one label field or several, their classes side by side in K.

    Attributes:
      mean, scale: x is (features - mean) * scale; scale is 0 for a feature that is constant.
      kernel, bias: the solution.
      classes: the labels of each field.
      penalty: of each field.
      iterations: of the final solve.
      converged: whether it reached the tolerance.
    """

    mean: Float[np.ndarray, " D"]
    scale: Float[np.ndarray, " D"]
    kernel: Float[np.ndarray, "D K"]
    bias: Float[np.ndarray, " K"]
    classes: tuple[np.ndarray, ...]
    penalty: tuple[float, ...]
    iterations: int
    converged: bool

    def predict(self, x: Float[np.ndarray, "n D"]) -> Int[np.ndarray, "n F"]:
        """The class of each row in each field."""
        ends = np.cumsum([len(c) for c in self.classes])[:-1]
        out = []
        for i in range(0, len(x), TILE_ROWS):
            logits = (x[i : i + TILE_ROWS] - self.mean) * self.scale @ self.kernel + self.bias
            parts = np.split(logits, ends, axis=-1)
            out.append(np.stack([c[part.argmax(-1)] for c, part in zip(self.classes, parts)], -1))
        return np.concatenate(out)


def fit(
    x: Float[np.ndarray, "n D"], y: Int[np.ndarray, "n F"], mesh: Mesh, tell: features.Tell = features.silent
) -> Probe:
    """The probe with, for each field, the penalty that does best on held-out rows, refitted on all rows."""
    classes, codes = zip(*(np.unique(column, return_inverse=True) for column in y.T))
    mean, scale = _moments(x)
    held_out = np.zeros(len(x), bool)
    held_out[np.random.default_rng(0).permutation(len(x))[: max(1, round(HELD_OUT * len(x)))]] = True
    problem = Problem(x, np.stack(codes, -1), mean, scale, tuple(len(c) for c in classes), mesh, tell)
    penalty, w = _choose(problem, held_out)
    problem.choose_rows(np.ones(len(x), bool))
    (w, _), solved = problem.solve(penalty, problem.at(w), TOLERANCE)
    solution = (mean, scale, problem.kernel(w), np.float32(w[-1]), classes)
    return Probe(*solution, tuple(penalty.tolist()), solved.iterations, solved.converged)


def _choose(
    problem: Problem, held_out: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " F"], Float[np.ndarray, "D+1 K"]]:
    """Each field's best penalty by held-out cross-entropy, and the weights found with it.

    From strong to weak, each solution the start of the next; the weak ones, which take longest, are left
    untried once they stop to gain.
    """
    problem.choose_rows(~held_out)
    point, fields = problem.zero, len(problem.sizes)
    penalty, least, since = np.zeros(fields), np.full(fields, np.inf), np.zeros(fields, int)
    best = point.w
    for value in PENALTIES:
        point, _ = problem.solve(np.full(fields, value), point, TOLERANCE_PATH)
        loss = problem.loss(point.w, held_out)
        better = loss < least
        penalty, least = np.where(better, value, penalty), np.minimum(loss, least)
        best = np.where(np.repeat(better, problem.sizes), point.w, best)
        since = np.where(better, 0, since + 1)
        if (since >= PATIENCE).all():
            break
    return penalty, best


def _moments(x: Float[np.ndarray, "n D"]) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]]:
    """Mean and 1 / deviation of each feature; 0 in place of the latter where rounding is all that varies."""
    chunks = [x[i : i + TILE_ROWS] for i in range(0, len(x), TILE_ROWS)]
    mean = sum(chunk.sum(0, dtype=np.float64) for chunk in chunks) / len(x)
    deviation = np.sqrt(sum(np.square(chunk - mean).sum(0) for chunk in chunks) / len(x))
    varies = deviation > 1e-6 * np.abs(mean) + 1e-30
    scale = np.where(varies, 1 / np.where(varies, deviation, 1), 0)
    return mean.astype(np.float32), scale.astype(np.float32)
