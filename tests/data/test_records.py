"""Records as bytes: what comes back, and what is refused."""

import msgpack
import numpy as np
import pytest

from vitjax.data import captions, records
from vitjax.data.decode import Undecodable
from vitjax.errors import UserError

RECORD = {
    "image": b"\xff\xd8\xff", "label": 3, "label/colour": -1, "text": ("a cat", "une chat"),
    "boxes": np.array([[0, 0.25, 0.5, 1]], np.float32), "box_label": np.array([2], np.int32),
    "mask": b"\x89PNG", "name": "cats/é 1.jpg",
}  # fmt: skip


def test_a_record_comes_back_as_it_went():
    found = records.decode(records.encode(RECORD))
    assert set(found) == set(RECORD)
    for name, value in RECORD.items():
        np.testing.assert_array_equal(found[name], value)
    assert found["boxes"].dtype == np.float32 and found["box_label"].dtype == np.int32
    assert found["text"] == RECORD["text"]


def test_a_record_without_boxes_keeps_their_shape():
    found = records.decode(records.encode({"image": b"", "boxes": np.zeros((0, 4)), "box_label": [], "mask": None}))
    assert found["boxes"].shape == (0, 4) and found["box_label"].shape == (0,) and found["mask"] is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not msgpack",
        records.encode(RECORD)[:-5],
        msgpack.packb([1, 2]),
        msgpack.packb({"image": "text"}),
        msgpack.packb({"image": b"", "label": 1.5}),
        msgpack.packb({"image": b"", "label": True}),
        msgpack.packb({"image": b"", "boxes": [[0, 0, 1]], "box_label": [0]}),
        msgpack.packb({"image": b"", "box_label": [2**40]}),
        msgpack.packb({"image": msgpack.ExtType(5, b"code")}),
        b"\xdf\xff\xff\xff\xff",  # a map that says it has 4 billion entries
    ],
)
def test_what_is_no_record_is_undecodable(data):
    with pytest.raises(Undecodable):
        records.decode(data)


def test_a_damaged_record_raises_nothing_else():
    rng, whole = np.random.default_rng(0), np.frombuffer(records.encode(RECORD), np.uint8)
    for _ in range(2000):
        data = whole.copy()
        data[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
        try:
            records.decode(data.tobytes())
        except Undecodable:
            pass


def test_fields_of_other_names_are_left_out():
    assert records.decode(msgpack.packb({"image": b"a", "sha256": b"b", b"label": 1})) == {"image": b"a"}


def test_the_description_of_a_set_comes_back(tmp_path):
    assert records.read_description(str(tmp_path)) is None
    described = records.Description({"label": ("chat", "été")}, ("image", "label"), {"train": 10, "test": 2})
    records.write_description(str(tmp_path), described)
    assert records.read_description(str(tmp_path)) == described
    (tmp_path / "records.json").write_text('{"class_names": 3}')
    with pytest.raises(UserError, match="records.json is damaged"):
        records.read_description(str(tmp_path))


@pytest.mark.parametrize(
    "values, expected",
    [
        ("  a cat\n", ("a cat",)),
        (b"caf\xe9", ("caf\ufffd",)),
        (["a", b"b", "", " ", None, 3], ("a", "b")),
        (None, ()),
        (7, ()),
        ("é" * 1_000_000, ("é" * captions.MAX_CHARACTERS,)),
        (b"x" * 1_000_000, ("x" * captions.MAX_CHARACTERS,)),
    ],
)
def test_captions_are_trimmed_bounded_and_never_empty(values, expected):
    assert captions.clean(values) == expected
