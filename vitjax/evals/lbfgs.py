"""L-BFGS for several convex problems side by side, from their gradients alone.

The columns of one matrix belong to different problems. A call of the gradient serves all of them, while
directions, step lengths and histories are each problem's own, so that the result is that of solving them
one by one. The line search asks only for the slope: in float32 a loss is too coarse to compare two points
near a minimum long before its gradient is.

Source: Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 7.4.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

MEMORY = 10
TRIALS = 20
FLAT, STEEP = 0.5, 0.9  # a step is good if the slope at its end is in [-STEEP, FLAT] times that at its start


class Solved(NamedTuple):
    """The minimum, the gradient there, the iterations taken, and whether every problem reached its goal."""

    u: Float[np.ndarray, "D K"]
    g: Float[np.ndarray, "D K"]
    iterations: int
    converged: bool


def minimise(
    gradient: Callable[[Float[np.ndarray, "D K"]], Float[np.ndarray, "D K"]],
    u: Float[np.ndarray, "D K"],
    g: Float[np.ndarray, "D K"],
    starts: Int[np.ndarray, " F"],
    goal: Float[np.ndarray, " F"],
    max_iterations: int,
) -> Solved:
    """The minima of convex problems whose columns begin at `starts`.

    Args:
      u, g: the point to start from and the gradient there.
      goal: the norm of its gradient below which a problem has converged.
    """
    spread = np.diff([*starts, u.shape[1]])

    def dot(a, b):
        return _dot(a, b, starts)

    def wide(per_problem):
        return np.repeat(per_problem, spread)

    steps: list[tuple] = []
    for iteration in range(max_iterations):
        active = norms(g, starts) > goal
        if not active.any():
            return Solved(u, g, iteration, True)
        d = wide(active) * -_direction(g, steps, dot, wide)
        step, new = _search(lambda t: gradient(u + wide(t) * d), d, dot(g, d), dot)  # noqa: B023
        s, y = wide(step) * d, new - g
        steps = [*steps[-MEMORY + 1 :], (s, y, dot(s, y), dot(y, y))]
        u, g = u + s, new
    return Solved(u, g, max_iterations, bool((norms(g, starts) <= goal).all()))


def norms(x: Float[np.ndarray, "D K"], starts: Int[np.ndarray, " F"]) -> Float[np.ndarray, " F"]:
    """Of each problem's columns."""
    return np.sqrt(_dot(x, x, starts))


def _direction(g: np.ndarray, steps: list[tuple], dot: Callable, wide: Callable) -> np.ndarray:
    """The inverse Hessian, as far as the last steps show it, times g."""
    q, alphas = g, []
    for s, y, sy, _ in reversed(steps):
        alpha = _ratio(dot(s, q), sy)
        q = q - wide(alpha) * y
        alphas.append(alpha)
    if steps:
        _, _, sy, yy = steps[-1]
        q = wide(np.where(sy > 0, _ratio(sy, yy), 1)) * q  # the scale of the inverse Hessian
    for (s, y, sy, _), alpha in zip(steps, reversed(alphas)):
        q = q + wide(alpha - _ratio(dot(y, q), sy)) * s
    return q


def _search(gradient_at: Callable, d: np.ndarray, slope: np.ndarray, dot: Callable):
    """Step lengths at whose end the slope has become flat enough, and the gradient there.

    Slopes of convex functions only grow along a line, so that the secant through two of them
    points at the minimum. A problem that does not move (d = 0) keeps the step 1.
    """
    t = np.ones_like(slope)
    low, high = np.zeros_like(t), np.full_like(t, np.inf)
    g = gradient_at(t)
    for _ in range(TRIALS):
        end = dot(g, d)
        good = (end >= STEEP * slope) & (end <= -FLAT * slope)
        if good.all():
            break
        far = end > 0
        low, high = np.where(far, low, t), np.where(far, t, high)
        rises = end > slope  # rounding apart it always does
        secant = t * np.where(rises, np.clip(_ratio(-slope, end - slope), 0.1, 4.0), 4.0)
        bounded = np.isfinite(high)
        width = np.where(bounded, high, 0) - low
        inside = np.where(bounded, np.clip(secant, low + 0.1 * width, low + 0.9 * width), secant)
        t = np.where(good, t, inside)
        g = gradient_at(t)
    return t, g


def _dot(a: np.ndarray, b: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(np.einsum("dk,dk->k", a, b), starts)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and 0 where b is not positive: a pair without curvature is passed over."""
    return np.where(b > 0, a / np.where(b > 0, b, 1), 0)
