"""Linear probe: multinomial logistic regression on frozen features, solved to convergence.

minimise over W, b:   mean cross-entropy(softmax(x W + b), y) + penalty / 2 * |W|^2

with features standardised by the training set's mean and deviation. The problem is convex, so there is
nothing to tune but the penalty, and that is chosen on pictures held out from the training split; the test
split is looked at once, at the end. The choice goes by their cross-entropy, which is smooth in the penalty;
their accuracy is noisy where they are few, and flat where classes are of unequal size.

`x` lies in tiles of rows, split over the devices. Several label fields are solved side by side, so that one
pass over `x` serves all of them; each is a problem of its own.

Source: the protocol of CLIP, https://arxiv.org/abs/2103.00020, section A.3 (L-BFGS, a sweep of penalties).
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from vitjax.errors import UserError
from vitjax.evals import Evaluator, features, lbfgs

PENALTIES = tuple(10.0 ** (e / 2) for e in range(2, -13, -1))  # 10 to 1e-6, tried in this order
PATIENCE = 2  # penalties without a gain for any field, after which weaker ones are not tried
HELD_OUT = 0.1  # of the training pictures
TOLERANCE = 1e-4  # of the gradient's norm against that at W = 0; leaves less than 1e-7 of loss
TOLERANCE_PATH = 1e-2  # while the penalty is being chosen
MAX_ITERATIONS = 500
TILE_ROWS = 2048
GRAM_ROWS = 4  # rows a feature from which the preconditioner is estimated


def make(config: Any, run: Any) -> Evaluator:
    """The evaluator 'linear': accuracy on config.eval_split of a probe trained on config.train_split.

    Raises:
      UserError: a field that the data set does not have.
    """
    fields = features.chosen_fields(config, run)
    train_split, eval_split = config.train_split, config.eval_split
    train_examples, eval_examples = config.train_examples, config.eval_examples

    def evaluate(
        features_of: Callable[[Mapping[str, Array]], Float[Array, "B D"]],
        batches: Callable[[str, int], Iterator[Mapping[str, np.ndarray]]],
        mesh: Mesh,
    ) -> dict[str, float]:
        train = features.extract(features_of, batches(train_split, train_examples), fields, mesh)
        features.check_classes(train.labels, config.name, train_split)
        probe = fit(train.x, np.stack([train.labels[field] for field in fields], -1), mesh)
        del train
        test = features.extract(features_of, batches(eval_split, eval_examples), fields, mesh)
        predicted = probe.predict(test.x)
        correct = {field: predicted[:, i] == test.labels[field] for i, field in enumerate(fields)}
        metrics = features.summary(correct, test, {"penalty": dict(zip(fields, probe.penalty))})
        return {**metrics, "iterations": probe.iterations, "converged": float(probe.converged)}

    return Evaluator(("features",), evaluate)


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
      UserError: the training labels are all of one class.
    """
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


def fit(x: Float[np.ndarray, "n D"], y: Int[np.ndarray, "n F"], mesh: Mesh) -> Probe:
    """The probe with, for each field, the penalty that does best on held-out rows, refitted on all rows."""
    classes, codes = zip(*(np.unique(column, return_inverse=True) for column in y.T))
    mean, scale = _moments(x)
    held_out = np.zeros(len(x), bool)
    held_out[np.random.default_rng(0).permutation(len(x))[: max(1, round(HELD_OUT * len(x)))]] = True
    problem = Problem(x, np.stack(codes, -1), mean, scale, tuple(len(c) for c in classes), mesh)
    penalty, kernel, bias = _choose(problem, ~held_out, held_out)
    problem.set_rows(np.ones(len(x), bool))
    kernel, bias, solved = problem.solve(penalty, kernel, bias, TOLERANCE)
    solution = (mean, scale, problem.to_features(kernel), np.float32(bias), classes)
    return Probe(*solution, tuple(penalty.tolist()), solved.iterations, solved.converged)


def _choose(problem: "Problem", rows: np.ndarray, held_out: np.ndarray) -> tuple[np.ndarray, ...]:
    """Each field's best penalty by held-out cross-entropy, and its solution.

    From strong to weak, each solution the start of the next; the weak ones, which take longest, are left
    untried once they stop to gain.
    """
    problem.set_rows(rows)
    kernel, bias = problem.zeros()
    best, since = np.full(len(problem.sizes), np.inf), np.zeros(len(problem.sizes), int)
    penalty, best_kernel, best_bias = best.copy(), kernel, bias
    for value in PENALTIES:
        kernel, bias, _ = problem.solve(np.full(len(best), value), kernel, bias, TOLERANCE_PATH)
        loss = problem.loss(kernel, bias, held_out)
        better = loss < best
        penalty, best = np.where(better, value, penalty), np.minimum(loss, best)
        columns = np.repeat(better, problem.sizes)
        best_kernel, best_bias = np.where(columns, kernel, best_kernel), np.where(columns, bias, best_bias)
        since = np.where(better, 0, since + 1)
        if (since >= PATIENCE).all():
            break
    return penalty, best_kernel, best_bias


class Problem:
    """The data of a probe on the devices, and its solution for a given penalty and set of rows.

    The solver's coordinates make the problem nearly round: along the axes of X'X / n, each scaled by
    1 / sqrt(c * eigenvalue + penalty), the Hessian is close to the identity however ill-conditioned the
    features are, and a few passes over them are enough. The minimum is not changed by that. c is the mean
    of p (1 - p) at W = 0. A kernel is given in these axes, unscaled.
    """

    def __init__(self, x, y, mean, scale, sizes: tuple[int, ...], mesh: Mesh):
        self.sizes, self.mesh = sizes, mesh
        tiles = features.tiled(np.asarray(x, np.float32), mesh, TILE_ROWS)
        real = features.tiled(np.ones(len(x), np.float32), mesh, TILE_ROWS)
        self.x = _standardise(tiles, mean, scale, real)
        self.y = features.tiled(y.astype(np.int32), mesh, TILE_ROWS)
        every = min(self.x.shape[0], max(1, len(x) // (GRAM_ROWS * x.shape[1])))
        eigenvalues, self.axes = _axes(self.x, every, mesh)
        eigenvalues = np.maximum(np.asarray(eigenvalues, np.float64), 0)
        c = np.concatenate([np.full(size, (1 - 1 / size) / size) for size in sizes])
        # The floor is float32's: smaller eigenvalues are noise.
        self.curvature = c * (eigenvalues[:, None] + 1e-7 * eigenvalues.sum())
        self.bias_curvature = c

    def zeros(self) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros_like(self.curvature), np.zeros_like(self.bias_curvature)

    def set_rows(self, rows: np.ndarray) -> None:
        """Chooses the rows that the loss is a mean over."""
        self.weights = features.tiled((rows / rows.sum()).astype(np.float32), self.mesh, TILE_ROWS)

    def to_features(self, kernel: np.ndarray) -> np.ndarray:
        """The kernel for standardised features."""
        return np.asarray(self.axes) @ kernel.astype(np.float32)

    def loss(self, kernel: np.ndarray, bias: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Mean cross-entropy of each field over `rows`, without the penalty."""
        weights = features.tiled((rows / rows.sum()).astype(np.float32), self.mesh, TILE_ROWS)
        args = (self.to_features(kernel), np.float32(bias), self.x, self.y, weights)
        return np.asarray(_loss(*args, self.sizes, self.mesh))

    def solve(self, penalty: np.ndarray, kernel: np.ndarray, bias: np.ndarray, tolerance: float):
        """(kernel, bias, lbfgs.Solved) at the minimum for each field's penalty, from a starting point."""
        penalty = np.repeat(penalty, self.sizes)
        scale = 1 / np.sqrt(np.vstack([self.curvature + penalty, self.bias_curvature]))

        def gradient(u: np.ndarray) -> np.ndarray:
            w = scale * u
            args = (self.axes, np.float32(w[:-1]), np.float32(w[-1]), self.x, self.y, self.weights)
            gw, gb = _gradient(*args, self.sizes, self.mesh)
            return scale * np.vstack([gw + penalty * w[:-1], gb])

        start = np.vstack([kernel, bias]) / scale
        solved = lbfgs.minimise(
            gradient, start, np.cumsum([0, *self.sizes[:-1]]), tolerance, MAX_ITERATIONS
        )
        w = scale * solved.u
        return w[:-1], w[-1], solved


@functools.partial(jax.jit, static_argnums=(6, 7))
def _gradient(axes, w, b, x, y, weights, sizes: tuple[int, ...], mesh: Mesh):
    """Of the weighted loss with respect to w (given along `axes`) and b; no [n, K] array exists."""

    def local(w, b, x, y, weights):
        def tile(sums, xyw):
            x, y, weight = xyw
            logits = _split(_matmul(x, w) + b, sizes)
            residual = [jax.nn.softmax(z) - _one_hot(z, y[:, i]) for i, z in enumerate(logits)]
            residual = jnp.concatenate(residual, -1) * weight[:, None]
            # [K, D] and not [D, K]: XLA's CPU backend takes four times as long to transpose x.
            return (sums[0] + _matmul(residual.T, x), sums[1] + residual.sum(0)), None

        zeros = (jnp.zeros_like(w.T), jnp.zeros_like(b))
        return jax.lax.psum(jax.lax.scan(tile, zeros, (x, y, weights))[0], mesh.axis_names)

    gw, gb = _over_rows(local, mesh, replicated=2)(_matmul(axes, w), b, x, y, weights)
    return _matmul(gw, axes).T, gb


@functools.partial(jax.jit, static_argnums=(5, 6))
def _loss(w, b, x, y, weights, sizes: tuple[int, ...], mesh: Mesh) -> Float[Array, " F"]:
    """The weighted cross-entropy of each field."""

    def local(w, b, x, y, weights):
        def tile(xyw):
            x, y, weight = xyw
            logits = _split(_matmul(x, w) + b, sizes)
            return jnp.stack([jnp.vdot(weight, _nats(z, y[:, i])) for i, z in enumerate(logits)])

        return jax.lax.psum(jax.lax.map(tile, (x, y, weights)).sum(0), mesh.axis_names)

    return _over_rows(local, mesh, replicated=2)(w, b, x, y, weights)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _axes(x: Float[Array, "T R D"], every: int, mesh: Mesh):
    """Eigenvalues and eigenvectors of X'X / n, from every n-th tile: they only make the solver fast."""
    tiles = jnp.arange(0, x.shape[0], every)

    def local(x):
        def tile(total, t):
            return total + _matmul(x[t].T, x[t]), None

        total, _ = jax.lax.scan(tile, jnp.zeros((x.shape[-1],) * 2), tiles)
        return jax.lax.psum(total, mesh.axis_names)

    return jnp.linalg.eigh(_over_rows(local, mesh)(x) / (len(tiles) * x.shape[1]))


def _over_rows(local: Callable, mesh: Mesh, replicated: int = 0) -> Callable:
    """`local` on each device's rows of [T, R, ...] arguments, after `replicated` whole ones."""

    def call(*args):
        specs = (P(),) * replicated + (P(None, mesh.axis_names),) * (len(args) - replicated)
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)(*args)

    return call


def _matmul(a: Array, b: Array) -> Array:
    # Full precision: an accelerator's default of 10 bits would keep the solver from converging.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _one_hot(z: Float[Array, "R K"], y: Int[Array, " R"]) -> Float[Array, "R K"]:
    return jax.nn.one_hot(y, z.shape[-1])


def _nats(z: Float[Array, "R K"], y: Int[Array, " R"]) -> Float[Array, " R"]:
    return jax.nn.logsumexp(z, -1) - jnp.take_along_axis(z, y[:, None], -1)[:, 0]


def _split(z: Array, sizes: tuple[int, ...]) -> list[Array]:
    return jnp.split(z, np.cumsum(sizes)[:-1].tolist(), axis=-1)


@functools.partial(jax.jit, donate_argnums=0)
def _standardise(x, mean, scale, real):
    return (x - mean) * scale * real[..., None]  # padding stays zero


def _moments(x: Float[np.ndarray, "n D"]) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]]:
    """Mean and 1 / deviation of each feature; 0 in place of the latter where rounding is all that varies."""
    chunks = [x[i : i + TILE_ROWS] for i in range(0, len(x), TILE_ROWS)]
    mean = sum(chunk.sum(0, dtype=np.float64) for chunk in chunks) / len(x)
    deviation = np.sqrt(sum(np.square(chunk - mean).sum(0) for chunk in chunks) / len(x))
    varies = deviation > 1e-6 * np.abs(mean) + 1e-30
    scale = np.where(varies, 1 / np.where(varies, deviation, 1), 0)
    return mean.astype(np.float32), scale.astype(np.float32)
