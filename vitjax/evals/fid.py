"""Fréchet inception distance: how far made pictures are from real ones, both as normals in a network's features.

    |m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2)),     covariances with n - 1

Lower is better. It is biased upwards where pictures are few, so only figures of the same n can be compared, and below
as many pictures as features most of it is bias. Published figures have 50,000 made pictures and the real training set.

Source: Heusel et al., 2017, GANs trained by a two time-scale update rule, equation 6.
"""

from typing import Any

import numpy as np
import scipy.linalg
import threadpoolctl
from jax.sharding import Mesh
from jaxtyping import Float

from vitjax.evals import Evaluator, features, generated

TILE_ROWS = 4096

Moments = tuple[Float[np.ndarray, " D"], Float[np.ndarray, "D D"]]


def make(config: Any, run: Any) -> Evaluator:
    """The evaluator 'fid': config.samples made pictures against the real ones of config.eval_split.

    Raises:
      UserError: there would be less than two pictures.
    """
    chosen = generated.choice(config, least=2)

    def evaluate(extract: features.Extract, mesh: Mesh) -> dict[str, float]:
        sets = chosen.sets(extract, "features")
        extract.tell("comparing moments")
        distance = frechet(moments(sets.made), moments(sets.real.x))
        return sets.summary({extract.network.figure("fid"): distance})

    return Evaluator(("generate",), (chosen.split,), evaluate, (chosen.network, "features"))


def moments(x: Float[np.ndarray, "n D"]) -> Moments:
    """Mean and covariance (with n - 1) in float64; no float64 copy of x exists."""
    tiles = [x[i : i + TILE_ROWS] for i in range(0, len(x), TILE_ROWS)]
    mean = sum(tile.sum(0, dtype=np.float64) for tile in tiles) / len(x)
    centred = (tile - mean for tile in tiles)
    return mean, sum(tile.T @ tile for tile in centred) / (len(x) - 1)


def frechet(a: Moments, b: Moments) -> float:
    """The squared Fréchet distance of two normals.

    tr sqrt(C1 C2) is found as tr sqrt(R C2 R) with R = sqrt(C1): a product of covariances is not symmetric, and its
    root by iteration is complex, or fails, where one of them is singular.
    """
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    # One thread: with more, each column waits for all of them, and on a busy machine for long.
    with threadpoolctl.threadpool_limits(1):
        values, axes = scipy.linalg.eigh(cov_a, driver="evd")
    root = axes * np.sqrt(np.maximum(values, 0)) @ axes.T
    with threadpoolctl.threadpool_limits(1):
        product = scipy.linalg.eigvalsh(root @ cov_b @ root)
    between = np.sqrt(np.maximum(product, 0)).sum()
    return float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * between)
