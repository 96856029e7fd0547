"""Lists of pictures: columns, labels, captions, splits, and rows that are not as they should be."""

import json
import os
import pickle

import pytest
from PIL import Image

from vitjax.data.columns import Wanted
from vitjax.data.decode import Undecodable, decode
from vitjax.data.sources import open_source
from vitjax.data.sources.folder import FolderSource
from vitjax.data.sources.table import TableSource
from vitjax.errors import UserError

TEXT = Wanted(texts=())


def pictures(folder, *greys):
    """Pictures 'x 1.png', 'x 2.png', .. of these greys."""
    folder.mkdir(parents=True, exist_ok=True)
    for grey in greys:
        Image.new("RGB", (2, 2), (grey, grey, grey)).save(folder / f"x {grey}.png")


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def greys(source):
    return [int(decode(source[i]["image"])[0, 0, 0]) for i in range(len(source))]


def column(source, field):
    return [source[i][field] for i in range(len(source))]


LISTS = {
    "list.csv": 'path,label,caption\nimg/x 2.png,dog,"two, of\nthem"\nimg/x 1.png,,\n',
    "list.tsv": 'path\tlabel\tcaption\nimg/x 2.png\tdog\t"two, of them\nimg/x 1.png\t\t\n',
    "list.jsonl": jsonl(
        {"path": "img/x 2.png", "label": "dog", "caption": "two, of\nthem"},
        {"path": "img/x 1.png", "label": None},
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_has_pictures_beside_it_labels_and_captions(tmp_path, settings, name):
    pictures(tmp_path / "img", 1, 2)
    (tmp_path / name).write_text(LISTS[name])
    source = open_source(settings(path=str(tmp_path / name), fields=("text",)), "train")
    assert greys(source) == [2, 1] and column(source, "label") == [0, -1]
    assert source.class_names == {"label": ("dog",)}
    assert [text.strip('"').replace("\n", " ") for text in source[0]["text"]] == ["two, of them"]
    assert source[1]["text"] == () and source.name(1) == f"{name}:1 (img/x 1.png)"
    assert greys(pickle.loads(pickle.dumps(source))) == [2, 1]


def test_pictures_are_relative_to_their_list_absolute_or_urls(tmp_path):
    pictures(tmp_path, 1, 2, 3)
    (tmp_path / "lists").mkdir()
    where = ["../x 1.png", str(tmp_path / "x 2.png"), f"file://{tmp_path}/x 3.png"]
    (tmp_path / "lists" / "list.csv").write_text("url\n" + "\n".join(where))
    assert greys(TableSource(str(tmp_path / "lists"), "train")) == [1, 2, 3]


def test_labels_are_numbers_or_names_that_mean_the_same_in_every_split(tmp_path):
    (tmp_path / "train-0.csv").write_text("path,label,kind\na,3,dog\nb,0,ape\nc,-1,\n")
    (tmp_path / "train-1.jsonl").write_text(jsonl({"path": "d", "label": 1.0, "kind": "dog"}))
    (tmp_path / "val.csv").write_text("path,kind,label\ne,cat,4\n")
    (tmp_path / "test.csv").write_text("path\nf\n")
    both = Wanted(labels=("label", "kind"))
    train, val = (TableSource(str(tmp_path), split, both) for split in ("train", "val"))
    assert train.class_names["label"] == val.class_names["label"] == ("0", "1", "2", "3", "4")
    assert train.class_names["label/kind"] == val.class_names["label/kind"] == ("ape", "cat", "dog")
    assert train._labels["label"].tolist() == [3, 0, -1, 1]
    assert train._labels["label/kind"].tolist() == [2, 0, -1, 2]
    assert val._labels["label/kind"].tolist() == [1]
    assert TableSource(str(tmp_path), "test").class_names == {}


def test_rows_that_cannot_be_used_have_their_rule(tmp_path, caplog):
    pictures(tmp_path, 1)
    os.mkfifo(tmp_path / "pipe.png")
    rows = [
        b"x 1.png,1,caf\xe9",
        b"too few",
        b"gone.png,1,a",
        b",1,a",
        b"pipe.png,1,",
        b"a,b,c,d",
        b"a\x00b,1,c",
    ]
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbfpath,label,text\r\n" + b"\r\n".join(rows))
    source = TableSource(str(tmp_path / "list.csv"), "train", TEXT)
    assert len(source) == 5 and "2 rows have too many or too few values" in caplog.text
    assert source[0]["text"] == ("caf\ufffd",)
    for index, kind in ((1, FileNotFoundError), (2, Undecodable), (3, FileNotFoundError), (4, OSError)):
        with pytest.raises(kind):
            source[index]


def test_captions_may_be_several_in_a_column_or_in_columns(tmp_path):
    pictures(tmp_path, 1)
    (tmp_path / "list.jsonl").write_text(jsonl({"path": "x 1.png", "captions": ["a", "", "b"], "alt": "c"}))
    assert TableSource(str(tmp_path), "train", TEXT)[0]["text"] == ("a", "b")
    both = TableSource(str(tmp_path), "train", Wanted(texts=("alt", "captions")))
    assert both[0]["text"] == ("c", "a", "b")


@pytest.mark.parametrize(
    "wanted, message",
    [
        (
            Wanted(image="x"),
            "image_column='x' is not in .*list.jsonl, whose columns are path, n, label",
        ),
        (Wanted(labels=("x",)), "label_columns='x' is not in"),
        (Wanted(texts=("x",)), "text_columns='x' is not in"),
        (TEXT, "has no column caption, .*: path, n, label"),
        (Wanted(image="n"), "'n' is int64; paths and URLs are texts"),
        (Wanted(texts=("n",)), "'n' is int64; captions are texts"),
    ],
)
def test_a_column_that_is_missing_or_of_another_kind_is_an_error(tmp_path, wanted, message):
    (tmp_path / "list.jsonl").write_text(jsonl({"path": "a", "n": 1, "label": 0}))
    with pytest.raises(UserError, match=message):
        TableSource(str(tmp_path), "train", wanted)


def test_a_list_without_pictures_says_which_columns_it_has(tmp_path):
    (tmp_path / "list.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="image_column to one of its columns: a, b"):
        TableSource(str(tmp_path), "train")


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.jsonl"])
@pytest.mark.parametrize("text", ["", "\n", '{"path": "a"}\n{"path":', "path\n"])
def test_a_list_that_is_empty_or_cut_is_an_error(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(
        UserError, match=f"{name} cannot be read as a list|no column of the usual names|hold no rows"
    ):
        TableSource(str(tmp_path), "train")


def test_auto_takes_lists_only_where_there_is_nothing_else(tmp_path, settings):
    pictures(tmp_path / "img", 1)
    (tmp_path / "train.csv").write_text("path\nimg/x 1.png\n")
    assert isinstance(open_source(settings(path=str(tmp_path)), "train"), FolderSource)
    assert greys(open_source(settings(path=str(tmp_path), source="table"), "train")) == [1]
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "README.md").write_text("about it")
    (tmp_path / "train.csv").rename(tmp_path / "only" / "train.csv")
    assert isinstance(open_source(settings(path=str(tmp_path / "only")), "train"), TableSource)


def test_a_list_that_names_no_split_beside_lists_that_do_is_an_error(tmp_path):
    for name in ("train.csv", "more.csv"):
        (tmp_path / name).write_text("path\na\n")
    with pytest.raises(UserError, match="'more.csv' names no split"):
        TableSource(str(tmp_path), "train")
    (tmp_path / "more.csv").unlink()
    with pytest.raises(UserError, match="'test' is not in .* which has 'train'"):
        TableSource(str(tmp_path), "test")
