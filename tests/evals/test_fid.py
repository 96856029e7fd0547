"""The distance of two normals: golden, in closed form, and the same however the rows are cut."""

import numpy as np
from golden import wave

from vitjax.evals import fid

N = np.arange(12)
X = np.stack([wave(1, (12,)), 0.7 * wave(2.5, (12,)), np.cos(N**2)], -1)
Y = np.stack([wave(30, (12,)) + 0.5, 1.3 * wave(7, (12,)), np.cos(1 + N**1.5)], -1)
# By the trace of a matrix root (scipy's sqrtm of the product) and by eigenvalues: the same to the last digit.
GOLDEN, WITH_N = 0.7715146516288289, 0.7339748652882376


def distance(x, y):
    return fid.frechet(fid.moments(x), fid.moments(y))


def test_equals_golden_with_the_unbiased_covariance():
    np.testing.assert_allclose(distance(X, Y), GOLDEN, rtol=1e-12)
    np.testing.assert_allclose(distance(Y, X), GOLDEN, rtol=1e-12)
    assert abs(GOLDEN - WITH_N) > 0.03, "covariances with n would not pass"


def test_is_zero_for_equal_sets_also_where_the_covariance_is_singular():
    few = np.random.default_rng(0).normal(size=(20, 50))
    assert abs(distance(few, few)) < 1e-5
    assert abs(distance(X, X)) < 1e-12


def test_normals_along_the_axes_have_the_closed_form():
    """|shift|^2 + sum (s1 - s2)^2."""
    x = np.random.default_rng(0).normal(size=(4000, 3))
    white = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T)).T)
    shift, stretch = np.array([1.0, -2.0, 0.5]), np.array([2.0, 0.5, 3.0])
    np.testing.assert_allclose(distance(white, white * stretch + shift), 5.25 + 1 + 0.25 + 4, rtol=1e-9)


def test_moments_are_those_of_numpy_however_the_rows_are_cut(monkeypatch):
    x = (100 + np.random.default_rng(1).normal(size=(103, 7))).astype(np.float32)
    for rows in (1, 10, 103, 4096):
        monkeypatch.setattr(fid, "TILE_ROWS", rows)
        mean, covariance = fid.moments(x)
        np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), rtol=1e-14)
        np.testing.assert_allclose(covariance, np.cov(x.T.astype(np.float64)), rtol=1e-10)
