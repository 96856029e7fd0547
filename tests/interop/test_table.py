import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.interop import table

ROWS = [*table.linear("params/head", "fc"), table.dropped("count", np.zeros((), np.int64))]
WEIGHTS = {"fc.weight": np.arange(6.0).reshape(2, 3), "fc.bias": np.arange(2.0), "count": np.asarray(3)}


def test_a_linear_map_is_transposed():
    ours = table.read(WEIGHTS, ROWS)
    assert sorted(ours) == ["params/head/bias", "params/head/kernel"]
    np.testing.assert_array_equal(ours["params/head/kernel"], [[0, 3], [1, 4], [2, 5]])


def test_written_arrays_are_laid_out_for_safetensors():
    back = table.write(table.read(WEIGHTS, ROWS), ROWS)
    assert list(back) == ["fc.weight", "fc.bias", "count"]
    assert all(x.flags.c_contiguous and x.flags.owndata for x in back.values())
    np.testing.assert_array_equal(back["fc.weight"], WEIGHTS["fc.weight"])


def test_missing_and_unexpected_names_are_listed():
    weights = {"fc.weight": np.zeros((2, 3)), "head.weight": np.zeros(1), "neck.bias": np.zeros(1)}
    match = r"missing: fc.bias \(1\); unexpected: head.weight, neck.bias \(2\)"
    with pytest.raises(UserError, match=match):
        table.read(weights, ROWS)
    with pytest.raises(UserError, match=r"missing: params/head/bias \(1\); unexpected: params/neck \(1\)"):
        table.write({"params/head/kernel": np.zeros((3, 2)), "params/neck": np.zeros(1)}, ROWS)


def test_what_means_nothing_to_us_may_be_absent():
    weights = {k: v for k, v in WEIGHTS.items() if k != "count"}
    assert len(table.read(weights, ROWS)) == 2


def test_joined_parts_lie_side_by_side():
    rows = table.joined_linear("qkv", ["q", "k"])
    weights = {"q.weight": np.full((2, 3), 1.0), "k.weight": np.full((2, 3), 2.0)}
    weights |= {"q.bias": np.full(2, 3.0), "k.bias": np.full(2, 4.0)}
    ours = table.read(weights, rows)
    np.testing.assert_array_equal(ours["qkv/kernel"], [[1, 1, 2, 2]] * 3)
    np.testing.assert_array_equal(ours["qkv/bias"], [3, 3, 4, 4])


def test_a_constant_is_checked_when_read_and_made_when_written():
    rows = [table.constant("position", np.ones((1, 2)), "choose learned ones")]
    assert table.read({"position": np.ones((1, 2))}, rows) == {}
    np.testing.assert_array_equal(table.write({}, rows)["position"], [[1, 1]])
    with pytest.raises(UserError, match="'position' in the weights is not the constant.*choose learned ones"):
        table.read({"position": np.zeros((1, 2))}, rows)
