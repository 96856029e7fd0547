"""Parquet files of pictures: columns, labels, splits, random access."""

import io
import json
import pickle

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vitjax.data.columns import Wanted
from vitjax.data.decode import Undecodable, decode
from vitjax.data.sources.parquet import ParquetSource
from vitjax.errors import UserError


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (2, 2), (value, value, value)).save(out, "PNG")
    return out.getvalue()


def write(file, values, features=None, row_group_size=3, **columns):
    """A Hugging Face style file whose picture i is grey of values[i] (None: no bytes)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pictures = [{"bytes": None if v is None else png(v), "path": f"class/{v}.png"} for v in values]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(pictures, kind), **columns})
    if features is not None:
        described = {"image": {"_type": "Image"}, **features}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": described}})})
    pq.write_table(table, file, row_group_size=row_group_size)


def greys(source):
    return [int(decode(source[i]["image"])[0, 0, 0]) for i in range(len(source))]


def class_label(*names):
    return {"_type": "ClassLabel", "names": list(names)}


def test_rows_come_in_the_order_of_files_and_rows_from_any_row_group(tmp_path):
    write(tmp_path / "train-00001-of-2.parquet", range(7, 12))
    write(tmp_path / "train-00000-of-2.parquet", range(7))
    source = ParquetSource(str(tmp_path), "train")
    assert greys(source) == list(range(12))
    assert source.name(8) == "train-00001-of-2.parquet:1 (class/8.png)"
    with pytest.raises(IndexError):
        source[12]


def test_labels_and_class_names_come_from_the_description(tmp_path):
    write(tmp_path / "train.parquet", [1, 2], {"label": class_label("cat", "dog")}, label=[1, 0])
    source = ParquetSource(str(tmp_path), "train")
    assert source.class_names == {"label": ("cat", "dog")}
    assert [source[i]["label"] for i in range(2)] == [1, 0]


def test_several_class_columns_become_several_fields(tmp_path):
    features = {"fine": class_label("a", "b"), "coarse": class_label("x", "y")}
    write(tmp_path / "train.parquet", [1], features, fine=[1], coarse=[0])
    source = ParquetSource(str(tmp_path), "train")
    assert source.class_names == {"label/fine": ("a", "b"), "label/coarse": ("x", "y")}
    assert {k: v for k, v in source[0].items() if k != "image"} == {"label/fine": 1, "label/coarse": 0}


def test_a_lone_class_column_of_another_name_is_the_label(tmp_path):
    write(tmp_path / "train.parquet", [1], {"kind": class_label("a", "b")}, kind=[1])
    assert ParquetSource(str(tmp_path), "train")[0]["label"] == 1


def test_string_labels_mean_the_same_in_every_split(tmp_path):
    write(tmp_path / "train-0.parquet", [1, 2], label=["dog", "ape"])
    write(tmp_path / "test-0.parquet", [3], label=["cat"])
    train, test = ParquetSource(str(tmp_path), "train"), ParquetSource(str(tmp_path), "test")
    assert train.class_names == test.class_names == {"label": ("ape", "cat", "dog")}
    assert [train[0]["label"], train[1]["label"], test[0]["label"]] == [2, 0, 1]


def test_plain_numbers_as_labels_are_named_by_themselves(tmp_path):
    write(tmp_path / "train-0.parquet", [1, 2], label=[0, 2])
    assert ParquetSource(str(tmp_path), "train").class_names == {"label": ("0", "1", "2")}


def test_nulls_are_an_undecodable_picture_and_label_minus_one(tmp_path):
    write(tmp_path / "train-0.parquet", [1, None], label=pa.array([None, 0], pa.int64()))
    source = ParquetSource(str(tmp_path), "train")
    assert source[0]["label"] == -1
    with pytest.raises(Undecodable, match="null"):
        source[1]


def test_a_binary_column_holds_pictures_too(tmp_path):
    pq.write_table(pa.table({"id": [7], "jpg": [png(9)]}), tmp_path / "0.parquet")
    source = ParquetSource(str(tmp_path), "train")
    assert greys(source) == [9] and source.name(0) == "0.parquet:0"


@pytest.mark.parametrize(
    "train, test",
    [
        ("train-0.parquet", "test-0.parquet"),
        ("data/train-0.parquet", "data/test-0.parquet"),
        ("train/0000.parquet", "test/0000.parquet"),
    ],
)
def test_splits_by_name_of_file_or_folder_never_mix(tmp_path, train, test):
    write(tmp_path / train, [1, 2])
    write(tmp_path / test, [3])
    assert greys(ParquetSource(str(tmp_path), "train")) == [1, 2]
    assert greys(ParquetSource(str(tmp_path), "test")) == [3]
    with pytest.raises(UserError, match="which has 'test', 'train'"):
        ParquetSource(str(tmp_path), "validation")


def test_a_single_file_is_the_split_of_its_name(tmp_path):
    write(tmp_path / "test-0.parquet", [3])
    with pytest.raises(UserError, match="which has 'test'"):
        ParquetSource(str(tmp_path / "test-0.parquet"), "train")


def test_a_split_as_folder_and_as_file_name_is_an_error(tmp_path):
    write(tmp_path / "train-0.parquet", [1])
    write(tmp_path / "train" / "0.parquet", [2])
    with pytest.raises(UserError, match="'train' is the folder .* and also files named train-"):
        ParquetSource(str(tmp_path), "train")


def test_a_file_that_names_no_split_beside_files_that_do_is_an_error(tmp_path):
    write(tmp_path / "train-0.parquet", [1])
    write(tmp_path / "more.parquet", [2])
    with pytest.raises(UserError, match="'more.parquet' names no split"):
        ParquetSource(str(tmp_path), "train")


def test_captions_are_strings_or_lists_of_them_where_they_are_wanted(tmp_path):
    several = pa.array([["a", " b "], [], None], pa.list_(pa.string()))
    write(tmp_path / "0.parquet", [1, 2, 3], row_group_size=2, caption=["one", "", None], more=several)

    def texts(*columns):
        source = ParquetSource(str(tmp_path), "train", Wanted(texts=columns))
        return [source[i]["text"] for i in range(3)]

    assert texts() == [("one",), (), ()]
    assert texts("more", "caption") == [("a", "b", "one"), (), ()]
    assert "text" not in ParquetSource(str(tmp_path), "train")[0]


def test_named_columns_win_over_the_usual_ones(tmp_path):
    thumbs = pa.array([png(7), png(8)], pa.binary())
    write(tmp_path / "0.parquet", [1, 2], label=[0, 1], kind=["b", "a"], maker=["x", "x"], thumb=thumbs)
    source = ParquetSource(str(tmp_path), "train", Wanted("thumb", ("kind",)))
    assert greys(source) == [7, 8] and source.class_names == {"label": ("a", "b")}
    several = ParquetSource(str(tmp_path), "train", Wanted(labels=("kind", "label")))
    assert several.class_names == {"label/kind": ("a", "b"), "label": ("0", "1")} and several[0]["label/kind"] == 1


@pytest.mark.parametrize(
    "wanted, message",
    [
        (Wanted(labels=("sort",)), "label_columns='sort' is not in .*0.parquet, whose columns are image, box, url"),
        (Wanted(labels=("box",)), "'box' is list<.*whole numbers or strings are needed"),
        (Wanted("url"), "image_column='url' does not hold pictures, which are bytes in the file.*not paths"),
        (Wanted(texts=()), "no column caption, captions, text or title; name one of its columns"),
        (Wanted(texts=("box",)), "'box' is list<.*strings or lists of them are needed"),
    ],
)
def test_a_column_that_does_not_serve_is_named(tmp_path, wanted, message):
    write(tmp_path / "0.parquet", [1], box=[[1, 2]], url=["http://a/b.jpg"])
    with pytest.raises(UserError, match=message):
        ParquetSource(str(tmp_path), "train", wanted)


def test_labels_that_are_no_class_are_unknown_and_told_once(tmp_path, caplog):
    write(tmp_path / "0.parquet", range(5), {"label": class_label("a", "b")}, 2, label=[1, -1, 2, -7, 0])
    source = ParquetSource(str(tmp_path), "train")
    assert [source[i]["label"] for i in range(5)] == [1, -1, -1, -1, 0]
    assert caplog.text.count("'label' is 2 in a row, and the classes end at 1") == 1


def test_labels_are_whole_numbers_however_they_are_stored(tmp_path):
    floats = pa.array([2.0, float("nan"), 0.5, None])
    write(tmp_path / "a" / "0.parquet", range(4), label=floats)
    write(tmp_path / "b" / "0.parquet", range(4), label=pa.array(["x", "y", None, "x"]).dictionary_encode())
    write(tmp_path / "c" / "0.parquet", range(4), label=pa.nulls(4, pa.int64()))
    a, b, c = (ParquetSource(str(tmp_path / name), "train") for name in "abc")
    assert a.class_names == {"label": ("0", "1", "2")} and [a[i]["label"] for i in range(4)] == [2, -1, -1, -1]
    assert b.class_names == {"label": ("x", "y")} and [b[i]["label"] for i in range(4)] == [0, 1, -1, 0]
    assert c.class_names == {} and set(c[0]) == {"image"}


def test_files_at_a_url_read_like_local_ones(tmp_path):
    write(tmp_path / "train-0.parquet", range(5), label=["dog", "ape", "ape", "dog", "cat"])
    root = f"memory://{tmp_path.name}/parquet"
    with fsspec.open(f"{root}/data/train-0.parquet", "wb") as file:
        file.write((tmp_path / "train-0.parquet").read_bytes())
    local = ParquetSource(str(tmp_path), "train")
    for path in (root, f"{root}/data/*.parquet", f"{root}/data/train-0.parquet"):
        source = pickle.loads(pickle.dumps(ParquetSource(path, "train")))
        assert [source[i] for i in range(5)] == [local[i] for i in range(5)]
        assert source.class_names == local.class_names and source.name(4) == "train-0.parquet:4 (class/4.png)"


def test_files_without_pictures_list_their_columns(tmp_path):
    pq.write_table(pa.table({"caption": ["a"], "url": ["b"]}), tmp_path / "0.parquet")
    with pytest.raises(UserError, match="no column holds pictures.*caption, url"):
        ParquetSource(str(tmp_path), "train")


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "train-0.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(UserError, match="train-0.parquet cannot be read as parquet"):
        ParquetSource(str(tmp_path), "train")


def damage(file, group, column):
    """Overwrites where the pages of a column begin."""
    found = pq.read_metadata(file).row_group(group).column(column)
    whole = bytearray(file.read_bytes())
    at = found.dictionary_page_offset or found.data_page_offset
    whole[at : at + 8] = b"\xff" * 8
    file.write_bytes(whole)


def test_damaged_pages_of_pictures_are_bad_records_and_those_of_labels_an_error(tmp_path):
    file = tmp_path / "0.parquet"
    write(file, range(6), label=[0, 1] * 3)
    damage(file, 1, 0)
    source = ParquetSource(str(tmp_path), "train")
    assert [source[i]["label"] for i in range(3)] == [0, 1, 0]
    with pytest.raises(Undecodable, match="the row group 1 cannot be read"):
        source[4]
    assert source.name(4) == "0.parquet:4 (class/4.png)"
    damage(file, 1, 1)
    assert source.name(4) == "0.parquet:4"
    damage(file, 1, 2)
    with pytest.raises(UserError, match="0.parquet: the column 'label' cannot be read"):
        ParquetSource(str(tmp_path), "train")


def test_a_row_group_that_is_shorter_than_it_says_is_a_bad_record(tmp_path, monkeypatch):
    write(tmp_path / "0.parquet", range(6))
    source, read = ParquetSource(str(tmp_path), "train"), pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *args, **how: read(*args, **how)[:2])
    with pytest.raises(Undecodable, match="the row group 1 has 2 of 3 rows"):
        source[4]


def test_no_files_and_no_rows_are_errors(tmp_path):
    with pytest.raises(UserError, match="no .parquet files"):
        ParquetSource(str(tmp_path), "train")
    write(tmp_path / "train-0.parquet", [])
    with pytest.raises(UserError, match="hold no rows"):
        ParquetSource(str(tmp_path), "train")


def test_memory_stays_under_the_bound_and_the_records_right(tmp_path, caplog):
    write(tmp_path / "train-0.parquet", range(30))
    source = ParquetSource(str(tmp_path), "train", cache_bytes=600)
    assert "do not fit" in caplog.text
    for i in np.random.default_rng(0).integers(0, 30, 100).tolist():
        assert decode(source[i]["image"])[0, 0, 0] == i
        assert source._held <= 600 and len(source._cache) >= 1


def test_a_copy_by_pickle_reads_the_same_and_carries_no_pictures(tmp_path):
    write(tmp_path / "train-0.parquet", range(200), row_group_size=200)
    source = ParquetSource(str(tmp_path), "train")
    source[0]
    pickled = pickle.dumps(source)
    assert len(pickled) < 5_000
    assert greys(pickle.loads(pickled)) == greys(source)


def test_cifar10_never_mixes_splits(picture_sets):
    path = str(picture_sets / "cifar10")
    train, test = ParquetSource(path, "train"), ParquetSource(path, "test")
    assert (len(train), len(test)) == (50_000, 10_000)
    assert train.class_names["label"][:3] == ("airplane", "automobile", "bird")
    assert test.name(0).startswith("test-00000-of-00001.parquet:0")
    assert np.bincount([test[i]["label"] for i in range(10_000)]).tolist() == [1000] * 10
