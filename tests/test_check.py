"""The audit of a picture set: its numbers are those of the set, and what is wrong with it is named."""

import json

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from vitjax import check
from vitjax.errors import UserError


def picture(seed, height=40, width=60):
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def put(path, image, quality=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality))
    return path


@pytest.fixture
def folder(tmp_path):
    """Five pictures and a text called a picture for training, two for tests, of which training has one."""
    root = tmp_path / "set"
    for k in range(3):
        put(root / "train" / "cat" / f"{k}.jpg", picture(k))
    put(root / "train" / "dog" / "3.jpg", picture(3, height=90))
    (root / "train" / "dog" / "again.jpg").write_bytes((root / "train" / "dog" / "3.jpg").read_bytes())
    (root / "train" / "dog" / "bad.jpg").write_bytes(b"<html>")
    put(root / "test" / "cat" / "small.jpg", cv2.resize(picture(1), (45, 30)))
    put(root / "test" / "dog" / "9.jpg", picture(9))
    return root


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(check, "MEASURED_S", 0.01)
    monkeypatch.setattr(check, "BATCH_SIZE", 4)


def test_the_numbers_of_a_folder(folder, tmp_path, capsys):
    assert (
        check.main([str(folder), f"--out={tmp_path / 'out' / 'check.json'}", "--config.data.size_px=16"]) == 0
    )
    facts, printed = json.loads((tmp_path / "out" / "check.json").read_text()), capsys.readouterr().out
    train = facts["splits"]["train"]
    assert (train["records"], train["bad"]) == (6, 1)
    assert train["bytes"] == sum(p.stat().st_size for p in folder.glob("train/*/[0-9a]*.jpg"))
    assert train["short_side_px"]["min"] == 40 and train["long_side_px"]["max"] == 90
    assert train["forms"] == {"JPEG RGB": 5} and train["labels"] == {"label": {"cat": 3, "dog": 2}}
    assert list(facts["splits"]) == ["train", "test"] and facts["loader"]["train"]["pictures_per_s"] > 0
    assert "not a JPEG" in printed and "bad.jpg" in printed and "2 classes: cat 3, dog 2" in printed


def test_what_is_held_twice_is_named(folder):
    found = check.check(check.settings(str(folder)))["duplicates"]
    assert found["train"]["exact"] == {"count": 1, "examples": [["train/dog/again.jpg", "train/dog/3.jpg"]]}
    assert found["test in train"]["exact"]["count"] == 0
    assert found["test in train"]["near"] == {
        "count": 1,
        "examples": [["test/cat/small.jpg", "train/cat/1.jpg"]],
    }


def test_captions_are_counted(tmp_path):
    for k, text in enumerate(("a cat\nun chat", "", "a dog")):
        put(tmp_path / f"{k}.jpg", picture(k)).with_suffix(".txt").write_text(text)
    captions = check.check(check.settings(str(tmp_path)))["splits"]["train"]["captions"]
    assert captions["count"] == 3 and captions["pictures_without"] == 1
    assert captions["characters"]["max"] == 7 and captions["a_picture"]["max"] == 2


def test_boxes_are_counted_by_class_and_size(tmp_path):
    put(tmp_path / "images" / "a.jpg", picture(0, 200, 200))
    boxes = [[0, 0, 10, 10], [0, 0, 40, 40], [0, 0, 32, 32], [5, 5, 150, 150]]
    annotations = [dict(id=k, image_id=1, category_id=1 + k % 2, bbox=box) for k, box in enumerate(boxes)]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text(
        json.dumps(
            dict(
                images=[dict(id=1, file_name="a.jpg", height=200, width=200)],
                annotations=annotations,
                categories=[dict(id=1, name="cell"), dict(id=2, name="plate"), dict(id=3, name="never")],
            )
        )
    )
    facts = check.check(check.settings(str(tmp_path)))
    found = facts["splits"]["train"]["boxes"]
    assert found["count"] == 4 and found["sizes"] == {"small": 1, "medium": 2, "large": 1}
    assert found["classes"] == {"cell": 2, "plate": 2, "never": 0}
    assert "1 classes have no picture" in check.text(facts)


def test_the_pixels_of_masks_are_counted(tmp_path):
    mask = np.zeros((40, 60), np.uint8)
    mask[:10] = 1
    put(tmp_path / "images" / "a.jpg", picture(0))
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    masks = check.check(check.settings(str(tmp_path)))["splits"]["train"]["masks"]
    assert masks == {"count": 1, "pixels": {"road": 1800, "sky": 600}}


def test_a_set_of_nothing_but_bad_files_is_told_so(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    facts = check.check(check.settings(str(tmp_path)))
    assert facts["splits"]["train"]["bad"] == 1 and "the file is empty" in check.text(facts)
    assert "cannot be decoded" in facts["loader"]["train"]["error"]


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        check.main([str(tmp_path / "no")])


def test_the_numbers_of_a_real_set_are_those_that_its_makers_give(picture_sets):
    facts = check.check(check.settings(str(picture_sets / "bccd")), "test")
    found = facts["splits"]["test"]
    assert found["records"] == 72 and found["bad"] == 0 and found["long_side_px"]["max"] == 640
    assert found["boxes"]["classes"] == {"RBC": 805, "WBC": 71, "Platelets": 69}
    assert found["boxes"]["sizes"] == {"small": 7, "medium": 295, "large": 643}
    assert found["boxes"]["a_picture"]["max"] == 24
