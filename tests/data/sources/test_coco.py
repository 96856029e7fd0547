"""Pictures with boxes and captions by COCO's JSON files."""

import json
import logging
import os
import pickle

import fsspec
import numpy as np
import pytest
from PIL import Image

from vitjax.data.decode import Undecodable
from vitjax.data.sources.coco import CocoSource, holds
from vitjax.errors import UserError

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat", "supercategory": "animal"}]
NAN = float("nan")


def image(number, name=None, **changes):
    return {"id": number, "file_name": name or f"{number}.png", "width": 20, "height": 10} | changes


def box(picture, xywh, category=3, **more):
    return {"id": 1, "image_id": picture, "category_id": category, "bbox": xywh} | more


def caption(picture, text):
    return {"id": 1, "image_id": picture, "caption": text}


def describe(root, name, images, annotations=(), categories=CATEGORIES, pictures="images"):
    """Writes annotations/<name>.json and the pictures that it names."""
    for folder in ("annotations", pictures):
        (root / folder).mkdir(parents=True, exist_ok=True)
    whole = {"licenses": [{"id": 1, "name": "x"}], "images": images, "annotations": annotations}
    (root / "annotations" / f"{name}.json").write_text(json.dumps(whole | {"categories": categories}))
    for each in images:
        if "absent" not in each["file_name"]:
            Image.new("RGB", (20, 10)).save(root / pictures / each["file_name"], format="PNG")
    return str(root)


def test_boxes_are_shares_of_the_picture_and_categories_have_no_gaps(tmp_path):
    images = [image(5), image(2), image(9)]
    boxes = [box(9, [0, 0, 20, 10], 7), box(5, [2, 1, 10, 5]), box(9, [10, 5, 5, 5], segmentation=[[1, 2]])]
    path = describe(tmp_path, "instances_train", images, boxes)
    source = CocoSource(path, "train", ("boxes",))
    assert source.class_names == {"box_label": ("cat", "dog")}
    assert [source.name(i) for i in range(3)] == ["images/5.png", "images/2.png", "images/9.png"]
    np.testing.assert_allclose(source[0]["boxes"], [[0.1, 0.1, 0.6, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(source[2]["boxes"], [[0, 0, 1, 1], [0.5, 0.5, 1, 0.75]])
    assert source[2]["box_label"].tolist() == [1, 0] and source[2]["box_label"].dtype == np.int32
    assert source[1]["boxes"].shape == (0, 4) and source[1]["boxes"].dtype == np.float32
    assert set(CocoSource(path, "train")[0]) == {"image"}


def test_boxes_that_cannot_be_used_are_left_out_or_cut_and_counted(tmp_path, caplog):
    outside, across = [25, 2, 3, 3], [15, -5, 10, 10]
    boxes = [box(1, [NAN, 0, 1, 1]), box(1, [0, 0, float("inf"), 1]), box(1, "no box"), box(1, [1, 1, 0, 5])]
    boxes += [box(1, [5, 5, -2, 2]), box(1, outside), box(1, across), box(1, [0, 0, 5, 5], iscrowd=1)]
    boxes += [box(1, [0, 0, 5, 5], category=4), box(99, [0, 0, 5, 5]), box(1, [0, 0, 10**400, 1])]
    path = describe(tmp_path, "instances_train", [image(1)], boxes)
    source = CocoSource(path, "train", ("boxes",))
    np.testing.assert_allclose(source[0]["boxes"], [[0, 0.75, 0.5, 1]])
    (said,) = caplog.messages
    assert "of 11 boxes 1 are used, 1 of them cut" in said
    assert said.endswith(
        "left out: 1 of crowds, 1 of pictures that are not listed, 1 of categories that are not listed, "
        "4 not finite, 3 empty or outside of the picture"
    )


def test_sound_annotations_say_nothing(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    CocoSource(describe(tmp_path, "instances_train", [image(1)], [box(1, [0, 0, 20, 10])]), "train", ("boxes",))
    assert not caplog.messages


def test_an_absent_picture_and_one_without_a_size_are_bad_records(tmp_path):
    images = [image(1), image(2, "absent.png"), image(3, width=None)]
    source = CocoSource(describe(tmp_path, "instances_train", images), "train", ("boxes",))
    assert len(source[0]["boxes"]) == 0
    with pytest.raises(FileNotFoundError, match="absent.png"):
        source[1]
    with pytest.raises(Undecodable, match="no width and height"):
        source[2]


def test_a_pipe_or_half_a_character_in_place_of_a_picture_is_a_bad_record(tmp_path):
    images = [image(1), image(2, "absent pipe.png"), image(3, "absent \ud800.png")]
    path = describe(tmp_path, "instances_train", images)
    os.mkfifo(tmp_path / "images" / "absent pipe.png")
    source = CocoSource(path, "train")
    for index in (1, 2):
        with pytest.raises(OSError, match="not there"):
            source[index]


def test_captions_find_their_pictures_by_name(tmp_path):
    path = describe(tmp_path, "instances_train2017", [image(1), image(2), image(3)])
    said = [caption(6, " a "), caption(8, "b"), caption(6, "c"), caption(6, ""), caption(77, "of nothing")]
    describe(tmp_path, "captions_train2017", [image(8, "1.png"), image(6, "3.png")], said)
    source = CocoSource(path, "train", ("text",))
    assert [source[i]["text"] for i in range(3)] == [("b",), (), ("a", "c")]
    both = pickle.loads(pickle.dumps(CocoSource(path, "train", ("text", "boxes"))))
    assert both[2]["text"] == ("a", "c") and set(both[2]) == {"image", "text", "boxes", "box_label"}


def test_captions_alone_are_a_set(tmp_path):
    path = describe(tmp_path, "captions_val2014", [image(1)], [caption(1, "a")], pictures="val2014")
    assert CocoSource(path, "validation", ("text",))[0]["text"] == ("a",)
    with pytest.raises(UserError, match="has 'boxes', but .* has no instances_val2014.json"):
        CocoSource(path, "val", ("boxes",))


@pytest.mark.parametrize("pictures", ["images", "train2017", "images/train2017", "."])
def test_pictures_are_found_where_they_usually_lie(tmp_path, pictures):
    path = describe(tmp_path, "instances_train2017", [image(1)], pictures=pictures)
    assert holds(path) and CocoSource(path, "train")[0]["image"].startswith(b"\x89PNG")
    assert len(CocoSource(f"{path}/annotations/instances_train2017.json", "train")) == 1


def test_pictures_that_are_nowhere_are_an_error(tmp_path):
    path = describe(tmp_path, "instances_train", [image(1, "absent.png")])
    with pytest.raises(UserError, match=r"'absent.png' .* are not in .*/train, .*/images/train, .*/images, "):
        CocoSource(path, "train")


def test_a_json_file_of_any_name_is_all_train(tmp_path):
    path = describe(tmp_path, "mine", [image(1)], [box(1, [0, 0, 2, 2])]) + "/annotations/mine.json"
    assert holds(path) and len(CocoSource(path, "train", ("boxes",))[0]["boxes"]) == 1
    with pytest.raises(UserError, match="all of it is 'train'"):
        CocoSource(path, "test")


def test_splits_share_their_categories(tmp_path):
    describe(tmp_path, "instances_train", [image(1)], categories=CATEGORIES[:1])
    path = describe(tmp_path, "instances_val", [image(2)], [box(2, [0, 0, 2, 2])])
    assert CocoSource(path, "train", ("boxes",)).class_names == {"box_label": ("cat", "dog")}
    assert CocoSource(path, "val", ("boxes",))[0]["box_label"].tolist() == [0]
    with pytest.raises(UserError, match="which has 'train', 'validation'"):
        CocoSource(path, "test")
    describe(tmp_path, "instances_test", [image(2)], categories=[{"id": 3, "name": "cow"}])
    with pytest.raises(UserError, match="category 3 is 'c.*in another split"):
        CocoSource(path, "train", ("boxes",))


def test_two_files_of_one_split_are_refused(tmp_path):
    describe(tmp_path, "instances_train2014", [image(1)])
    with pytest.raises(UserError, match="'train' has the annotations of 'train2014' and of 'train2017'"):
        CocoSource(describe(tmp_path, "instances_train2017", [image(1)]), "train")


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "{}", '{"images": 3}', "[" * 100_000, "\xff\xfe", '{"images": [], "a": "caf\xe9"}']
)
def test_what_is_no_annotation_file_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="a.json is not an annotation file of COCO's form"):
        CocoSource(str(tmp_path / "a.json"), "train")


def test_a_set_at_a_url_reads_like_a_local_one(tmp_path):
    local = describe(tmp_path, "instances_train", [image(1)], [box(1, [0, 0, 2, 2])])
    root = f"memory://{tmp_path.name}/coco"
    for name in ("annotations/instances_train.json", "images/1.png"):
        with fsspec.open(f"{root}/{name}", "wb") as file:
            file.write((tmp_path / name).read_bytes())
    here, there = (CocoSource(path, "train", ("boxes",)) for path in (local, root))
    assert holds(root) and there.name(0) == here.name(0) == "images/1.png"
    assert there[0]["image"] == here[0]["image"] and (there[0]["boxes"] == here[0]["boxes"]).all()


def test_blood_cells_keep_every_box(picture_sets, caplog):
    path = str(picture_sets / "bccd")
    for split, pictures, boxes in (("train", 205, 2804), ("val", 87, 1137), ("test", 72, 945)):
        source = CocoSource(path, split, ("boxes",))
        assert source.class_names == {"box_label": ("RBC", "WBC", "Platelets")} and len(source) == pictures
        assert sum(len(source[i]["boxes"]) for i in range(pictures)) == boxes
    assert not caplog.messages
