"""The kernel distance against its definition, pair by pair."""

import itertools

import numpy as np
from golden import wave

from vitjax.evals import kid


def by_pairs(x, y):
    def mean(pairs):
        return np.mean([(np.dot(a, b) / len(a) + 1) ** 3 for a, b in pairs])

    apart = [mean(itertools.permutations(of, 2)) for of in (x, y)]
    return sum(apart) - 2 * mean(itertools.product(x, y))


def test_equals_its_definition():
    x, y = wave(1, (7, 4)), wave(50, (5, 4)) + 0.3
    np.testing.assert_allclose(kid.discrepancy(x, y), by_pairs(x, y), rtol=1e-12)


def test_two_numbers_by_hand():
    """k(0, 2) = 1 and k(1, 1) = 8 within the sets; k(0, 1), k(2, 1) = 1, 27 across, each twice."""
    x, y = np.array([[0.0], [2.0]]), np.array([[1.0], [1.0]])
    assert kid.discrepancy(x, y) == 1 + 8 - 2 * 14


def test_has_no_bias_where_the_distributions_are_equal():
    """Comparing pictures with themselves, as the biased estimate does, would add about 0.2 here."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4000, 8)).astype(np.float32)
    values = list(kid.estimates(x, y, subsets=100, subset_size=50))
    assert len(values) == 100 and abs(np.mean(values)) < 0.01
    assert min(values) < 0 < max(values)


def test_subsets_are_as_large_as_there_are_pictures_and_the_same_again():
    x, y = wave(1, (6, 4)), wave(50, (9, 4))
    first, again = (list(kid.estimates(x, y, 3, 1000)) for _ in range(2))
    assert first == again and len(set(first)) > 1
    (whole,) = kid.estimates(x, y[:6], 1, 1000)
    np.testing.assert_allclose(whole, kid.discrepancy(x, y[:6]), rtol=1e-12)
