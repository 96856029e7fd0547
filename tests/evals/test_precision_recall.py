"""Precision and recall of generators: by hand, by loops, and the same however the rows are cut."""

import numpy as np
import pytest

from vitjax.evals import precision_recall as pr


def by_loops(made, real, k):
    def balls(x):
        return [sorted(np.linalg.norm(a - b) for j, b in enumerate(x) if j != i)[k - 1] for i, a in enumerate(x)]

    def share(x, centres, radii):
        return np.mean([any(np.linalg.norm(a - c) <= r for c, r in zip(centres, radii)) for a in x])

    return share(made, real, balls(real)), share(real, made, balls(made))


def test_by_hand():
    """k = 1. Balls of the real 0, 1, 10 reach 1, 1 and 9; those of the made 2, 2.5, 30 reach 0.5, 0.5 and 27.5."""
    real, made = (np.array([values], np.float32).T for values in ([0.0, 1.0, 10.0], [2.0, 2.5, 30.0]))
    np.testing.assert_allclose(pr.precision_recall(made, real, 1), (2 / 3, 1 / 3))


@pytest.mark.parametrize("rows, distances", [(2048, 2**25), (7, 2**25), (2048, 300), (1, 1)])
def test_equals_loops_however_the_rows_are_cut(rows, distances, monkeypatch):
    monkeypatch.setattr(pr, "MOST_ROWS", rows)
    monkeypatch.setattr(pr, "DISTANCES", distances)
    rng = np.random.default_rng(0)
    # Far from 0, where squares in float32 would lose the differences.
    real, made = (x.astype(np.float32) for x in (1000 + rng.normal(size=(41, 3)), 1001.5 + rng.normal(size=(53, 3))))
    found = pr.precision_recall(made, real, 3)
    np.testing.assert_allclose(found, by_loops(made.astype(float), real.astype(float), 3), atol=1e-7)
    assert 0.1 < found[0] < 0.9 and 0.1 < found[1] < 0.9


def test_copies_of_one_good_picture_are_precise_and_recall_nothing():
    real = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    assert pr.precision_recall(real, real, 3) == (1.0, 1.0)
    precision, recall = pr.precision_recall(np.repeat(real[:1], 60, 0), real, 3)
    assert precision == 1 and recall == pytest.approx(1 / 60)
