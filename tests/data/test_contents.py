"""What a set has, found without being told."""

import threading

import pytest

from vitjax.config import base_config
from vitjax.data import contents
from vitjax.errors import UserError


def settings(path):
    config = base_config()
    config.data.path = str(path)
    return config.data


def put(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def test_captions_beside_pictures_are_found(tmp_path):
    put(tmp_path, "a.jpg", "a.txt")
    source, fields = contents.open_whole(settings(tmp_path), "train")
    assert fields == ("text",) and "text" in source[0]


def test_a_set_without_fields_has_none(tmp_path):
    put(tmp_path, "a.jpg")
    assert contents.open_whole(settings(tmp_path), "train")[1] == ()


def test_the_splits_are_those_that_are_there(tmp_path):
    put(tmp_path / "train", "a.jpg")
    put(tmp_path / "val", "b.jpg", "c.jpg")
    opened = contents.open_splits(settings(tmp_path))
    assert {split: len(source) for split, (source, _) in opened.items()} == {"train": 1, "validation": 2}
    assert list(contents.open_splits(settings(tmp_path), "val")) == ["val"]


def test_a_split_that_is_not_there_is_refused_and_other_faults_are_not_taken_for_it(tmp_path):
    put(tmp_path / "train", "a.jpg")
    with pytest.raises(UserError, match="'test' is not in"):
        contents.open_splits(settings(tmp_path), "test")
    with pytest.raises(UserError, match="does not exist"):
        contents.open_splits(settings(tmp_path / "no"))


def test_threads_keep_the_order_and_run_only_a_little_ahead():
    lock, asked = threading.Lock(), []

    def act(number):
        with lock:
            asked.append(number)
        return -number

    results = contents.in_threads(act, range(5000))
    assert next(results) == 0
    assert len(asked) < 2500
    assert list(results) == [-n for n in range(1, 5000)]
