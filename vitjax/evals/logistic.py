"""Multinomial logistic regression in tiles of rows that are split over the devices.

minimise over W, b:   mean cross-entropy(softmax(x W + b), y) + penalty / 2 * |W|^2

Several label fields are solved side by side, their classes one after the other in K, so that one pass over
`x` serves all of them; each is a problem of its own.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import threadpoolctl
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from vitjax.evals import features, lbfgs

MAX_ITERATIONS = 500
TILE_ROWS = 2048
GRAM_ROWS = 4  # rows a feature from which the preconditioner is made


class Point(NamedTuple):
    """Weights along the problem's axes, the bias as their last row, and the slope of the loss there.

    The slope is that of the cross-entropy alone, without the penalty.
    """

    w: Float[np.ndarray, "D+1 K"]
    slope: Float[np.ndarray, "D+1 K"]


class Problem:
    """The data on the devices, and the minimum for a given penalty and choice of rows.

    The solver's coordinates make the problem nearly round: along the axes of x'x / n, each scaled by
    1 / sqrt(c * eigenvalue + penalty), the Hessian is close to the identity however ill-conditioned the
    features are, and a few passes over them are enough. The minimum is not changed by that. c is the mean
    of p (1 - p) at W = 0.

    Args:
      x: features; mean, scale: what makes them (x - mean) * scale.
      y: classes of each field, from 0.
      sizes: number of classes of each field.
      tell: called before each pass over the features.
    """

    def __init__(
        self,
        x: Float[np.ndarray, "n D"],
        y: Int[np.ndarray, "n F"],
        mean: Float[np.ndarray, " D"],
        scale: Float[np.ndarray, " D"],
        sizes: tuple[int, ...],
        mesh: Mesh,
        tell: features.Tell = features.silent,
    ):
        self.sizes, self.mesh = sizes, mesh
        self._tell, self._passes = tell, 0
        tiles = features.tiled(np.asarray(x, np.float32), mesh, TILE_ROWS)
        real = features.tiled(np.ones(len(x), np.float32), mesh, TILE_ROWS)
        self.x = _standardise(tiles, mean, scale, real)
        self.y = features.tiled(y.astype(np.int32), mesh, TILE_ROWS)
        every = min(self.x.shape[0], max(1, len(x) // (GRAM_ROWS * x.shape[1])))
        eigenvalues, axes = _eigh(np.asarray(_gram(self.x, every, mesh)))
        self.axes = jax.device_put(axes, NamedSharding(mesh, P()))
        eigenvalues = np.maximum(eigenvalues, 0).astype(np.float64)
        eigenvalues += 1e-7 * eigenvalues.sum()  # smaller ones are float32's noise
        c = np.concatenate([np.full(size, (1 - 1 / size) / size) for size in sizes])
        self.curvature = c * np.append(eigenvalues, 1.0)[:, None]

    def choose_rows(self, rows: Bool[np.ndarray, " n"]) -> None:
        """From now on the loss is the mean over these rows."""
        self.weights = self._weights(rows)
        self.zero = self.at(np.zeros_like(self.curvature))

    def at(self, w: Float[np.ndarray, "D+1 K"]) -> Point:
        """The point with these weights."""
        self._passes += 1
        self._tell(f"solving, pass {self._passes:,} over the features")
        args = (self.axes, np.float32(w), self.x, self.y, self.weights)
        return Point(w, np.asarray(_slope(*args, self.sizes, self.mesh), np.float64))

    def kernel(self, w: Float[np.ndarray, "D+1 K"]) -> Float[np.ndarray, "D K"]:
        """The weights for standardised features."""
        return np.asarray(self.axes) @ np.float32(w[:-1])

    def loss(self, w: Float[np.ndarray, "D+1 K"], rows: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " F"]:
        """Mean cross-entropy of each field over `rows`."""
        args = (self.axes, np.float32(w), self.x, self.y, self._weights(rows))
        return np.asarray(_loss(*args, self.sizes, self.mesh))

    def solve(
        self, penalty: Float[np.ndarray, " F"], start: Point, tolerance: float
    ) -> tuple[Point, lbfgs.Solved]:
        """The minimum for each field's penalty.

        Args:
          tolerance: of the gradient's norm, in the solver's coordinates and against that at W = 0.
        """
        bends = np.ones_like(self.curvature) * np.repeat(penalty, self.sizes)
        bends[-1] = 0  # the bias is free
        scale = 1 / np.sqrt(self.curvature + bends)

        def gradient(point: Point) -> Float[np.ndarray, "D+1 K"]:
            return scale * (point.slope + bends * point.w)

        starts = np.cumsum([0, *self.sizes[:-1]])
        goal = tolerance * lbfgs.norms(gradient(self.zero), starts)
        begin = (start.w / scale, gradient(start))
        solved = lbfgs.minimise(lambda u: gradient(self.at(scale * u)), *begin, starts, goal, MAX_ITERATIONS)
        w = scale * solved.u
        return Point(w, solved.g / scale - bends * w), solved

    def _weights(self, rows: Bool[np.ndarray, " n"]) -> Float[Array, "T R"]:
        return features.tiled((rows / rows.sum()).astype(np.float32), self.mesh, TILE_ROWS)


@functools.partial(jax.jit, static_argnames=("sizes", "mesh"))
def _slope(axes, w, x, y, weights, sizes: tuple[int, ...], mesh: Mesh) -> Float[Array, "D+1 K"]:
    """The gradient of the weighted cross-entropy with respect to w; no [n, K] array exists."""

    def local(kernel, bias, x, y, weights):
        def tile(sums, xyw):
            x, y, weight = xyw
            logits = _split(_matmul(x, kernel) + bias, sizes)
            residual = [jax.nn.softmax(z) - _one_hot(z, y[:, i]) for i, z in enumerate(logits)]
            residual = jnp.concatenate(residual, -1) * weight[:, None]
            # [K, D] and not [D, K]: XLA's CPU backend takes four times as long to transpose x.
            return (sums[0] + _matmul(residual.T, x), sums[1] + residual.sum(0)), None

        zeros = (jnp.zeros_like(kernel.T), jnp.zeros_like(bias))
        return jax.lax.psum(jax.lax.scan(tile, zeros, (x, y, weights))[0], mesh.axis_names)

    sums = _over_rows(local, mesh, replicated=2)(_matmul(axes, w[:-1]), w[-1], x, y, weights)
    return jnp.vstack([_matmul(sums[0], axes).T, sums[1]])


@functools.partial(jax.jit, static_argnames=("sizes", "mesh"))
def _loss(axes, w, x, y, weights, sizes: tuple[int, ...], mesh: Mesh) -> Float[Array, " F"]:
    """The weighted cross-entropy of each field."""

    def local(kernel, bias, x, y, weights):
        def tile(xyw):
            x, y, weight = xyw
            logits = _split(_matmul(x, kernel) + bias, sizes)
            return jnp.stack([jnp.vdot(weight, _nats(z, y[:, i])) for i, z in enumerate(logits)])

        return jax.lax.psum(jax.lax.map(tile, (x, y, weights)).sum(0), mesh.axis_names)

    return _over_rows(local, mesh, replicated=2)(_matmul(axes, w[:-1]), w[-1], x, y, weights)


@functools.partial(jax.jit, static_argnames=("every", "mesh"))
def _gram(x: Float[Array, "T R D"], every: int, mesh: Mesh) -> Float[Array, "D D"]:
    """x'x / n, of some of the tiles: it only makes the solver fast."""
    tiles = jnp.arange(0, x.shape[0], every)

    def local(x):
        def tile(total, t):
            return total + _matmul(x[t].T, x[t]), None

        total, _ = jax.lax.scan(tile, jnp.zeros((x.shape[-1],) * 2), tiles)
        return jax.lax.psum(total, mesh.axis_names)

    return _over_rows(local, mesh)(x) / (len(tiles) * x.shape[1])


def _eigh(gram: Float[np.ndarray, "D D"]) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, "D D"]]:
    """Eigenvalues and eigenvectors, by one thread.

    A second one saves little, and where others use the machine too the threads wait for each other at every
    column: measured, 62 s in place of 6 s for D = 3072.
    """
    with threadpoolctl.threadpool_limits(1):
        return scipy.linalg.eigh(gram, driver="evd")


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
