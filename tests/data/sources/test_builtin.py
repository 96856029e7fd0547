"""The built-in sources and the file where scenes are kept."""

import os
import pickle
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

from vitjax.data import scenes, scenes_cache, scenes_draw, scenes_text
from vitjax.data.sources import builtin
from vitjax.errors import UserError

PINNED_DIGITS = [1, 4, 4, 6, 3, 6, 4, 8]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path / "cache"))


def settings(**changes) -> ml_collections.ConfigDict:
    base = dict(builtin="scenes", size_px=16, train_examples=40, eval_examples=20, seed=0, cache_dir="", fields=())
    return ml_collections.ConfigDict(base | changes)


def drawn(split: str, count: int, size_px: int = 16, seed: int = 0) -> np.ndarray:
    return scenes_draw.draw(scenes.sample(seed, split, np.arange(count)), size_px)


def files(tmp_path) -> list:
    return sorted((tmp_path / "cache").iterdir())


def test_scenes_are_the_pictures_of_their_split():
    train, test = builtin.make(settings(), "train"), builtin.make(settings(), "test")
    assert len(train) == 40 and len(test) == 20
    for source, split in ((train, "train"), (test, "test")):
        pictures = np.stack([source[i]["image"] for i in range(len(source))])
        np.testing.assert_array_equal(pictures, drawn(split, len(source)))
    assert len(builtin.make(settings(), "val")) == 20


def test_gather_equals_the_records():
    for name in ("scenes", "digits"):
        source = builtin.make(settings(builtin=name), "train")
        indices = np.array([3, 0, 17])
        got = source.gather(indices, tuple(source.class_names))
        for k, i in enumerate(indices):
            record = source[int(i)]
            assert set(record) == set(got)
            for field in record:
                np.testing.assert_array_equal(record[field], got[field][k])
        assert set(source.gather(indices, ("label",))) == {"image", "label"}


def test_records_have_every_label_and_its_names():
    source = builtin.make(settings(), "train")
    assert set(source[0]) == {"image", *source.class_names}
    truth = scenes.labels(scenes.sample(0, "train", np.arange(40)))
    for field, names in source.class_names.items():
        values = np.array([source[i][field] for i in range(40)])
        np.testing.assert_array_equal(values, truth[field])
        assert len(set(values)) > 1 and values.max() < len(names)
    assert source.name(7) == "scenes/seed0/train/7"


def test_example_is_complete_and_consistent():
    source = builtin.make(settings(size_px=32), "test")
    for i in range(20):
        example = source.example(i)
        assert example["caption"] in example["captions"]
        assert len(example["boxes"]) == len(example["masks"]) == len(example["box_label"])
        assert example["box_label"][0] == example["label"]
        assert len(example["questions"]) == len(example["answers"]) == len(scenes_text.QUESTION_TYPES)
        np.testing.assert_array_equal(example["mask"] > 0, example["masks"].any(0))
        assert example["masks"].sum(0).max() == 1
        assert set(example["mask"][example["masks"][0]]) == {example["label"] + 1}
        np.testing.assert_array_equal(example["image"], source[i]["image"])
    assert source.example(3)["questions"] == source.example(3)["questions"]
    with pytest.raises(IndexError):
        source.example(20)


def test_second_opening_draws_nothing(monkeypatch):
    builtin.make(settings(), "train")
    calls = []
    monkeypatch.setattr(scenes_cache, "_write", lambda *args: calls.append(args))
    assert len(builtin.make(settings(), "train")) == 40
    assert len(builtin.make(settings(train_examples=15), "train")) == 15
    assert not calls


def test_larger_wish_keeps_what_is_drawn(tmp_path, monkeypatch):
    builtin.make(settings(), "train")
    starts = []
    whole = scenes_cache._draw_part
    monkeypatch.setattr(scenes_cache, "_draw_part", lambda *a: (starts.append(a[2]), whole(*a)))
    source = builtin.make(settings(train_examples=70), "train")
    assert starts == [40]
    np.testing.assert_array_equal(source.gather(np.arange(70))["image"], drawn("train", 70))
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("harm", ["cut", "empty", "garbage", "zeros"])
def test_damaged_file_is_drawn_again(tmp_path, harm):
    builtin.make(settings(), "train")
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    header = len(whole) - 40 * 16 * 16 * 3
    damaged = {"cut": whole[:-100], "empty": b"", "garbage": b"x" * 500, "zeros": whole[:header]}[harm]
    path.write_bytes(damaged + (bytes(len(whole) - header) if harm == "zeros" else b""))
    source = builtin.make(settings(), "train")
    np.testing.assert_array_equal(source.gather(np.arange(40))["image"], drawn("train", 40))


def test_another_seed_or_size_is_another_file(tmp_path):
    for changes in ({}, {"seed": 1}, {"size_px": 24}):
        builtin.make(settings(**changes), "train")
    assert len(files(tmp_path)) == 3
    assert not np.array_equal(drawn("train", 4), drawn("train", 4, seed=1))


def test_helpers_share_the_drawing(monkeypatch):
    """The work is split over processes where it is large; here it is called large."""
    monkeypatch.setattr(scenes_cache, "_SHARED_FROM_BYTES", 0)
    monkeypatch.setattr(scenes_cache, "_cores", lambda: 2)
    source = builtin.make(settings(), "train")
    np.testing.assert_array_equal(source.gather(np.arange(40))["image"], drawn("train", 40))


def test_two_processes_at_once_leave_one_whole_file(tmp_path):
    code = (
        "import numpy as np\n"
        "from vitjax.data import scenes_cache\n"
        "path = scenes_cache.ensure('', 0, 'train', 16, 600)\n"
        "print(int(scenes_cache.open_pictures(path, 600).sum(dtype=np.int64)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    sums = [int(process.communicate()[0]) for process in running]
    assert sums == [drawn("train", 600).sum(dtype=np.int64)] * 2
    assert len(files(tmp_path)) == 1


def test_source_pickles_without_its_pictures():
    source = builtin.make(settings(), "train")
    before = source[5]["image"]
    packed = pickle.dumps(source)
    assert len(packed) < 5_000
    np.testing.assert_array_equal(pickle.loads(packed)[5]["image"], before)


def test_cache_folder_follows_the_setting_then_the_environment(monkeypatch, tmp_path):
    assert str(scenes_cache.folder("/elsewhere")) == "/elsewhere"
    assert scenes_cache.folder("") == tmp_path / "cache"
    monkeypatch.delenv("VITJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert scenes_cache.folder("") == tmp_path / "vitjax"


def test_digits_are_split_once_and_for_all():
    train, test = (
        builtin.make(settings(builtin="digits"), "train"),
        builtin.make(settings(builtin="digits"), "test"),
    )
    assert len(train) == 1437 and len(test) == 360
    assert train[0]["image"].shape == (16, 16, 3) and train[0]["image"].dtype == np.uint8
    assert [train[i]["label"] for i in range(8)] == PINNED_DIGITS
    assert set(test.gather(np.arange(360))["label"]) == set(range(10))
    assert test[0]["image"].max() > 200


def test_digits_at_their_own_size_are_the_scans():
    from sklearn.datasets import load_digits

    own = builtin.make(settings(builtin="digits", size_px=8), "train").gather(np.arange(1437))["image"]
    known = {np.rint(scan * 255 / 16).astype(np.uint8).tobytes() for scan in load_digits().images}
    assert {picture[..., 0].tobytes() for picture in own} <= known


@pytest.mark.parametrize(
    "changes, split, message",
    [
        ({"builtin": "scene"}, "train", r"config.data.builtin='scene'.*scenes, digits"),
        ({}, "dev", r"'dev'.*train, test, validation"),
        ({"builtin": "digits"}, "validation", r"'validation'.*train and test"),
        ({"size_px": 4}, "train", r"config.data.size_px=4"),
        ({"train_examples": 0}, "train", r"config.data.train_examples=0"),
        ({"seed": -1}, "train", r"config.data.seed=-1"),
    ],
)
def test_wrong_setting_is_named(changes, split, message):
    with pytest.raises(UserError, match=message):
        builtin.make(settings(**changes), split)


def test_unwritable_cache_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"config.data.cache_dir.*VITJAX_CACHE"):
        builtin.make(settings(), "train")


def test_loading_scenes_does_not_load_jax():
    code = "import sys, vitjax.data.sources.builtin; sys.exit('jax' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
