"""The inception score: golden, and at the ends of its range."""

import numpy as np
import pytest
from golden import wave

from vitjax.evals import inception_score


@pytest.mark.parametrize(
    "parts, mean, std",
    [
        (1, 1.7503014632602476, 0.0),
        (2, 1.7502407425755142, 0.0005608697124974693),
        (5, 1.2394575103282508, 0.09662088607863542),
    ],
)
def test_equals_golden(parts, mean, std):
    np.testing.assert_allclose(inception_score.score(2 * wave(1, (10, 5)), parts), (mean, std), rtol=1e-12, atol=1e-15)


def test_is_the_number_of_classes_for_sure_and_even_answers_and_one_for_equal_ones():
    sure = 1e4 * np.eye(7)[np.arange(70) % 7]
    np.testing.assert_allclose(inception_score.score(sure, 10), (7, 0), atol=1e-9)
    np.testing.assert_allclose(inception_score.score(np.tile(wave(1, (1, 7)), (70, 1)), 10), (1, 0), atol=1e-12)


def test_parts_of_uneven_size_hold_every_picture_once():
    logits = 3 * wave(1, (11, 4))
    parts = [inception_score.score(logits[a:b], 1)[0] for a, b in ((0, 3), (3, 7), (7, 11))]
    np.testing.assert_allclose(inception_score.score(logits, 3), (np.mean(parts), np.std(parts)), rtol=1e-12)
