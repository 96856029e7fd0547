"""array_record files: both kinds of records, classes, splits, damage, remote sets."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from vitjax.data import records
from vitjax.data.decode import Undecodable
from vitjax.data.sources import array_record, open_source
from vitjax.errors import UserError


def write(file, raw):
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = ArrayRecordWriter(str(file), "group_size:1,uncompressed")
    for data in raw:
        writer.write(data)
    writer.close()


def ours(values, **fields):
    """Records of pictures that are one byte each, with further fields that follow from it."""
    return [records.encode({"image": bytes([v]), **{k: f(v) for k, f in fields.items()}}) for v in values]


def example(**features):
    made = tf_example_pb2.Example()
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        kind = "int64_list" if isinstance(values[0], int) else "bytes_list"
        getattr(made.features.feature[name.replace("__", "/")], kind).value.extend(values)
    return made.SerializeToString()


@pytest.fixture
def settings(tmp_path):
    def make(path, **changes):
        base = dict(source="auto", path=str(path), image_column="", label_columns=(), text_columns=(), fields=())
        base |= dict(tfds="", cache_dir=str(tmp_path / "cache"), cache_gb=1.0)
        return SimpleNamespace(**(base | changes))

    return make


def pictures(source):
    return [source[i]["image"][0] for i in range(len(source))]


def test_records_come_in_the_order_of_files_and_rows(tmp_path, settings):
    write(tmp_path / "set" / "train-00001-of-00002.array_record", ours(range(3, 5)))
    write(tmp_path / "set" / "train-00000-of-00002.array_record", ours(range(3), name=lambda v: f"{v}.jpg"))
    write(tmp_path / "set" / "val-00000-of-00001.array_record", ours([9]))
    source = open_source(settings(tmp_path / "set"), "train")
    assert pictures(source) == [0, 1, 2, 3, 4] and source.class_names == {}
    assert source.name(1) == "train-00000-of-00002.array_record:1 (1.jpg)"
    assert source.name(4) == "train-00001-of-00002.array_record:1"
    assert pictures(open_source(settings(tmp_path / "set"), "val")) == [9]
    with pytest.raises(IndexError):
        source[5]


def test_the_description_names_the_classes_and_other_labels_are_none(tmp_path, settings):
    write(tmp_path / "train" / "0.array_record", ours(range(4), label=lambda v: v - 1))
    names = {"label": ("cat", "dog")}
    records.write_description(str(tmp_path), records.Description(names, ("image", "label"), {"train": 4}))
    source = open_source(settings(tmp_path), "train")
    assert source.class_names == names
    assert [source[i]["label"] for i in range(4)] == [-1, 0, 1, -1]


def test_without_a_description_the_classes_are_those_of_all_splits(tmp_path, settings, monkeypatch):
    write(tmp_path / "train-0.array_record", ours([1, 2], label=lambda v: v))
    write(tmp_path / "test-0.array_record", ours([3], label=lambda v: v))
    assert open_source(settings(tmp_path), "train").class_names == {"label": ("0", "1", "2", "3")}
    monkeypatch.setattr(array_record.classes, "names", lambda *_: pytest.fail("the labels were read again"))
    assert open_source(settings(tmp_path), "test").class_names == {"label": ("0", "1", "2", "3")}


def test_other_fields_come_where_they_are_asked_for(tmp_path, settings):
    boxes = np.array([[0, 0, 1, 1]], np.float32)
    raw = ours([1], text=lambda v: ["a"], boxes=lambda v: boxes, box_label=lambda v: [2], mask=lambda v: b"png")
    write(tmp_path / "0.array_record", [*raw, *ours([2])])
    assert set(open_source(settings(tmp_path), "train")[0]) == {"image"}
    source = open_source(settings(tmp_path, fields=("text", "boxes", "mask")), "train")
    assert source.class_names == {"box_label": ("0", "1", "2")}
    full, empty = source[0], source[1]
    assert full["text"] == ("a",) and full["mask"] == b"png" and full["box_label"].tolist() == [2]
    assert empty["text"] == () and empty["mask"] is None and empty["boxes"].shape == (0, 4)


def test_examples_of_tensorflow_have_their_usual_features(tmp_path, settings):
    raw = [
        example(image__encoded=b"a", image__class__label=3, caption=[b"one", b"tw\xff"], image__filename=b"a.jpg"),
        example(image__encoded=b"b"),
        example(image__class__label=1),
    ]
    write(tmp_path / "0.arrayrecord", raw)
    source = open_source(settings(tmp_path, fields=("text",)), "train")
    assert source.class_names == {"label": ("0", "1", "2", "3")}
    assert source[0] == {"image": b"a", "label": 3, "text": ("one", "tw\ufffd")}
    assert source[1] == {"image": b"b", "label": -1, "text": ()}
    assert source.name(0) == "0.arrayrecord:0 (a.jpg)"
    with pytest.raises(Undecodable, match="no picture in 'image/encoded'"):
        source[2]


def test_features_of_other_names_are_named_by_the_config(tmp_path, settings):
    write(tmp_path / "0.array_record", [example(pic=b"a", kind=b"dog", tone=1), example(pic=b"b", kind=b"cat", tone=0)])
    named = dict(image_column="pic", label_columns=("kind", "tone"))
    source = open_source(settings(tmp_path, **named), "train")
    assert source.class_names == {"label/kind": ("cat", "dog"), "label/tone": ("0", "1")}
    assert source[0] == {"image": b"a", "label/kind": 1, "label/tone": 1}
    with pytest.raises(UserError, match="image_column='no' is not in the records, which have kind, pic, tone"):
        open_source(settings(tmp_path, image_column="no"), "train")


def test_columns_have_no_place_beside_fixed_names(tmp_path, settings):
    write(tmp_path / "0.array_record", ours([1]))
    with pytest.raises(UserError, match="label_columns=.*fixed names"):
        open_source(settings(tmp_path, label_columns=("kind",)), "train")


def test_a_damaged_record_is_one_bad_record(tmp_path, settings):
    write(tmp_path / "0.array_record", ours(range(3)) + [b"junk"])
    file = tmp_path / "0.array_record"
    whole = bytearray(file.read_bytes())
    at = whole.index(ours([1])[0])
    whole[at : at + 2] = b"??"
    file.write_bytes(whole)
    source = open_source(settings(tmp_path), "train")
    assert [source[i]["image"][0] for i in (0, 2)] == [0, 2]
    for index in (1, 3):
        with pytest.raises(Undecodable):
            source[index]
    assert source.name(1) == "0.array_record:1"


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_file_that_was_cut_is_named_and_never_counts_as_empty(tmp_path, settings, share):
    write(tmp_path / "0.array_record", ours(range(3)))
    whole = (tmp_path / "0.array_record").read_bytes()
    (tmp_path / "1.array_record").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match="1.array_record cannot be read as array_record"):
        open_source(settings(tmp_path), "train")


def test_files_without_records_or_of_others_kinds_are_errors(tmp_path, settings):
    write(tmp_path / "a" / "0.array_record", [])
    with pytest.raises(UserError, match="hold no records"):
        open_source(settings(tmp_path / "a"), "train")
    write(tmp_path / "b" / "0.array_record", [b"\x89PNG"] * 3)
    with pytest.raises(UserError, match="none of 3 records can be read"):
        open_source(settings(tmp_path / "b"), "train")


def test_many_threads_read_at_once_and_a_copy_by_pickle_is_small(tmp_path, settings):
    write(tmp_path / "0.array_record", ours(i % 256 for i in range(2000)))
    source = open_source(settings(tmp_path), "train")
    source[0]
    data = pickle.dumps(source)
    assert len(data) < 5_000
    order = np.random.default_rng(0).permutation(2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: pickle.loads(data)[i] if i < 20 else source[i], order))
    assert [record["image"][0] for record in found] == [i % 256 for i in order]


def test_a_remote_set_is_copied_whole_or_refused(tmp_path, settings):
    write(tmp_path / "train-0.array_record", ours([1, 2], label=lambda v: v))
    url = f"memory://{tmp_path.name}"
    fsspec.filesystem("memory").put(f"{tmp_path}/train-0.array_record", f"{url}/train-0.array_record")
    source = open_source(settings(url), "train")
    assert pictures(source) == [1, 2] and source.class_names == {"label": ("0", "1", "2")}
    assert len(list(Path(tmp_path / "cache" / "copies").glob("*/*.array_record"))) == 1
    with pytest.raises(UserError, match="cache_gb=1e-06 is smaller than the set"):
        open_source(settings(url, cache_gb=1e-6), "train")
