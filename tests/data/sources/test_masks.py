"""Folders of pictures and masks: pairs, classes, splits."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from vitjax.data.decode import decode, decode_mask
from vitjax.data.sources import masks, open_source
from vitjax.data.sources.folder import FolderSource
from vitjax.data.sources.masks import MasksSource
from vitjax.errors import UserError


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L" if "masks" in name else "RGB", (3, 2), 7).save(path, format="PNG")
    return str(root)


def test_a_mask_has_the_name_of_its_picture_at_any_depth(tmp_path):
    path = make(
        tmp_path,
        "images/a.jpg",
        "images/x/b.png",
        "images/c.png",
        "masks/a.png",
        "masks/x/b.png",
        "masks/d.png",
    )
    source = MasksSource(path, "train", has_mask=True)
    assert [source.name(i) for i in range(len(source))] == ["images/a.jpg", "images/c.png", "images/x/b.png"]
    assert [source[i]["mask"] is None for i in range(3)] == [False, True, False]
    assert (decode_mask(source[2]["mask"]) == 7).all()
    assert set(MasksSource(path, "train")[0]) == {"image"}


def test_splits_never_mix_and_share_their_classes(tmp_path):
    path = make(tmp_path, "train/images/a.png", "train/masks/a.png", "val/images/b.png", "val/masks/b.png")
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfsky\r\nroad \n\ncaf\xe9\n\n")
    train, val = (MasksSource(path, split, has_mask=True) for split in ("train", "validation"))
    assert (train.name(0), val.name(0)) == ("train/images/a.png", "val/images/b.png")
    assert train.class_names == val.class_names == {"mask": ("sky", "road", "", "caf\ufffd")}
    with pytest.raises(UserError, match="'test' is not in .* which has 'train', 'validation'"):
        MasksSource(path, "test")


def test_without_a_list_of_classes_they_have_no_names(tmp_path):
    path = make(tmp_path, "images/a.png", "masks/a.png")
    assert MasksSource(path, "train", has_mask=True).class_names == {}
    (tmp_path / "classes.txt").write_text("class\n" * 257)
    with pytest.raises(UserError, match="classes.txt has 257 lines"):
        MasksSource(path, "train", has_mask=True)


def test_no_masks_where_they_were_asked_for_and_no_pictures_are_errors(tmp_path):
    path = make(tmp_path, "train/images/a.jpg", "test/masks/b.png")
    with pytest.raises(
        UserError, match=r"no picture in .*train has one \(that of train/images/a.jpg .*masks/a.png"
    ):
        MasksSource(path, "train", has_mask=True)
    with pytest.raises(UserError, match="no pictures in .*test/images"):
        MasksSource(path, "test")


def test_a_pipe_or_a_folder_in_place_of_a_mask_is_no_mask(tmp_path):
    path = make(tmp_path, "images/a.png", "images/b.png", "images/c.png", "masks/c.png")
    os.mkfifo(tmp_path / "masks" / "a.png")
    (tmp_path / "masks" / "b.png").mkdir()
    source = MasksSource(path, "train", has_mask=True)
    assert source[0]["mask"] is None and source[1]["mask"] is None


@pytest.mark.parametrize(
    "names, kind",
    [
        (("images/a.jpg", "masks/a.png"), MasksSource),
        (("train/images/a.jpg", "train/masks/a.png", "val/images/b.jpg", "val/masks/b.png"), MasksSource),
        (("images/a.jpg", "masks/carnival.png"), FolderSource),  # classes
        (("train/images/a.jpg", "train/masks/a.png", "val/b.jpg"), FolderSource),
        (("images/a.jpg", "others/a.png"), FolderSource),
    ],
)
def test_auto_takes_it_for_masks_only_where_the_names_are_those_of_pictures(tmp_path, settings, names, kind):
    path = make(tmp_path, *names)
    source = open_source(settings(path=path), "train")
    assert isinstance(source, kind)
    assert pickle.loads(pickle.dumps(source)).name(0) == source.name(0)


def test_streets_have_a_mask_of_the_size_of_each_picture(picture_sets):
    path = str(picture_sets / "camvid")
    assert masks.holds(path)
    sources = {split: MasksSource(path, split, has_mask=True) for split in ("train", "val", "test")}
    assert [len(s) for s in sources.values()] == [367, 101, 233]
    assert (
        sources["val"].class_names["mask"][:2] == ("Sky", "Building")
        and len(sources["val"].class_names["mask"]) == 12
    )
    for index in range(0, 233, 40):
        record = sources["test"][index]
        mask = decode_mask(record["mask"])
        assert mask.shape == decode(record["image"]).shape[:2] == (360, 480) and mask.max() <= 11
    assert np.unique(mask).size > 5
