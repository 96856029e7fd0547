"""Prepared sets: the same records in fewer bytes, whatever happens on the way."""

import json

import cv2
import numpy as np
import prepare_data
import pytest
import simplejpeg
from PIL import Image

from vitjax import check
from vitjax.data import contents
from vitjax.data.decode import decode, decode_mask
from vitjax.errors import RunError, UserError


def picture(seed, height=80, width=120):
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def put(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), 95))
    return path


@pytest.fixture
def folder(tmp_path):
    """Seven pictures for training, of which one is bad and one small, and one for tests, which training has as well."""
    root = tmp_path / "set"
    for k in range(5):
        put(root / "train" / ("cat" if k < 3 else "dog") / f"{k}.jpg", picture(k))
    put(root / "train" / "dog" / "small.jpg", picture(8, 20, 30))
    (root / "train" / "dog" / "bad.jpg").write_bytes(b"<html>")
    put(root / "test" / "bird" / "9.jpg", cv2.resize(picture(1), (90, 60)))
    put(root / "test" / "cat" / "10.jpg", picture(10))
    return root


def prepare(folder, out, *more):
    assert prepare_data.main([str(folder), f"--out={out}", "--size_px=40", "--shard_records=3", *more]) == 0
    return json.loads((out / "manifest.json").read_text())


def opened(path):
    return contents.open_splits(check.settings(str(path)))


def test_a_prepared_set_has_the_labels_class_names_and_splits_of_the_first(folder, tmp_path):
    prepare(folder, tmp_path / "out")
    before, after = opened(folder), opened(tmp_path / "out")
    assert list(after) == list(before) == ["train", "test"]
    for split in before:
        old, new = before[split][0], after[split][0]
        good = [k for k in range(len(old)) if "bad" not in old.name(k)]
        assert new.class_names == old.class_names == {"label": ("bird", "cat", "dog")}
        assert [new[k]["label"] for k in range(len(new))] == [old[k]["label"] for k in good]
        for k, index in enumerate(good):
            assert old.name(index) in new.name(k)
    sizes = [decode(after["train"][0][k]["image"]).shape[:2] for k in range(6)]
    assert sizes == [(40, 60)] * 5 + [(20, 30)]


def test_a_small_picture_is_kept_byte_for_byte_and_a_large_one_looks_the_same(folder, tmp_path):
    manifest = prepare(folder, tmp_path / "out")
    source = opened(tmp_path / "out")["train"][0]
    assert source[5]["image"] == (folder / "train" / "dog" / "small.jpg").read_bytes()
    assert manifest["splits"]["train"]["kept_as_they_were"] == 1
    off = decode(source[0]["image"]).astype(int) - cv2.resize(
        picture(0), (60, 40), interpolation=cv2.INTER_AREA
    )
    assert np.abs(off).mean() < 4


def test_the_manifest_names_bad_records_and_what_the_splits_share(folder, tmp_path):
    manifest = prepare(folder, tmp_path / "out")
    (bad,) = manifest["splits"]["train"]["bad"]
    assert bad["name"] == "train/dog/bad.jpg" and "not a JPEG" in bad["reason"]
    shared = manifest["duplicates"]["test in train"]["near"]
    assert shared == {"count": 1, "examples": [["test/bird/9.jpg", "train/cat/1.jpg"]]}
    assert manifest["splits"]["train"]["records"] == 6 and manifest["splits"]["train"]["files"] == 3


def test_a_run_that_was_stopped_goes_on_and_ends_as_an_unbroken_one(folder, tmp_path, monkeypatch):
    made = prepare_data.make

    def stopped(source, index, form):
        if index == 4:
            raise KeyboardInterrupt
        return made(source, index, form)

    monkeypatch.setattr(prepare_data, "make", stopped)
    with pytest.raises(RunError, match="the same command goes on"):
        prepare(folder, tmp_path / "out")
    (done,) = (tmp_path / "out").glob("*.done")
    written = done.stat().st_mtime_ns
    with pytest.raises(UserError, match="no pictures"):  # half a set is none
        opened(tmp_path / "out")
    monkeypatch.setattr(prepare_data, "make", made)
    manifest = prepare(folder, tmp_path / "out")
    assert (tmp_path / "out" / "train-00000-of-00003.array_record").stat().st_mtime_ns == written
    assert manifest == prepare(folder, tmp_path / "whole") == prepare(folder, tmp_path / "out")
    names = [sorted(path.name for path in (tmp_path / out).iterdir()) for out in ("out", "whole")]
    assert names[0] == names[1] and not [name for name in names[0] if name.startswith(".")]


def test_other_settings_and_other_files_are_refused(folder, tmp_path):
    prepare(folder, tmp_path / "out")
    with pytest.raises(UserError, match="begun with quality=90, and this is quality=80"):
        prepare(folder, tmp_path / "out", "--quality=80")
    with pytest.raises(UserError, match="holds other files"):
        prepare(folder, folder)
    with pytest.raises(UserError, match="--quality=101 must be between 1 and 100"):
        prepare(folder, tmp_path / "new", "--quality=101")


def test_masks_and_captions_come_along(tmp_path):
    mask = np.arange(80, dtype=np.uint8)[:, None].repeat(120, 1) // 8
    put(tmp_path / "masks" / "images" / "a.jpg", picture(0))
    (tmp_path / "masks" / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "masks" / "a.png")
    (tmp_path / "masks" / "classes.txt").write_text("\n".join("abcdefghij"))
    prepare(tmp_path / "masks", tmp_path / "out")
    source, fields = opened(tmp_path / "out")["train"]
    small = decode_mask(source[0]["mask"])
    assert fields == ("mask",) and source.class_names == {"mask": tuple("abcdefghij")}
    np.testing.assert_array_equal(small, np.arange(40, dtype=np.uint8)[:, None].repeat(60, 1) // 4)
    put(tmp_path / "texts" / "a.jpg", picture(0)).with_suffix(".txt").write_text("a cat\nun chat")
    prepare(tmp_path / "texts", tmp_path / "out2")
    assert opened(tmp_path / "out2")["train"][0][0]["text"] == ("a cat", "un chat")


def test_boxes_come_along_and_pictures_without_files_are_stored_without_loss(tmp_path):
    scenes = ["--config.data.builtin=scenes", "--config.data.size_px=32", "--config.data.train_examples=8"]
    scenes += [f"--config.data.cache_dir={tmp_path / 'cache'}", "--split=train"]
    argv = [f"--out={tmp_path / 'out'}", "--size_px=40", *scenes]
    assert prepare_data.main(argv) == 0
    before, fields = contents.open_whole(check.settings(None, scenes[:-1]), "train")
    after, found = opened(tmp_path / "out")["train"]
    assert fields == found == ("text", "boxes", "mask") and dict(after.class_names) == dict(
        before.class_names
    )
    for k in range(8):
        old, new = before[k], after[k]
        np.testing.assert_array_equal(decode(new["image"]), old["image"])
        np.testing.assert_array_equal(decode_mask(new["mask"]), old["mask"])
        np.testing.assert_allclose(new["boxes"], old["boxes"], atol=1e-6)
        np.testing.assert_array_equal(new["box_label"], old["box_label"])
        assert new["text"] == tuple(old["text"]) and new["label/hue"] == old["label/hue"]
