"""Classes that labels name."""

import pytest

from vitjax.data.classes import MOST, names, number
from vitjax.errors import UserError


def test_texts_are_sorted_and_numbers_are_called_by_themselves():
    assert names(["b", "a", "b"], "x") == ("a", "b")
    assert names([2, 0, -1], "x") == ("0", "1", "2")
    assert names([], "x") == names([-1], "x") == ()


def test_identities_and_mixed_labels_are_no_classes():
    with pytest.raises(UserError, match="here: a label is 10000000, and class numbers end at 10,000,000"):
        names([1, MOST], "here")
    with pytest.raises(UserError, match=r"here: some labels are texts \('cat'\) and others numbers \(3\)"):
        names(["cat", 3], "here")


@pytest.mark.parametrize("value", [-1, 2, 10**30, None, "cow", "1", 0.5])
def test_what_is_no_class_is_minus_one(value):
    assert number(value, {"cat": 0, "dog": 1}, 2) == -1
    assert number(1, {}, 2) == number("dog", {"cat": 0, "dog": 1}, 2) == 1
