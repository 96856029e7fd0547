"""Folders of pictures: listing, classes, splits."""

import io
import os
import pickle

import fsspec
import pytest
from PIL import Image

from vitjax.data import captions
from vitjax.data.sources.folder import FolderSource
from vitjax.errors import UserError


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2)).save(path, format="PNG")
    return str(root)


def names(source):
    return [source.name(i) for i in range(len(source))]


def test_a_flat_folder_is_unlabelled_and_sorted(tmp_path):
    path = make(tmp_path, "b.png", "a.JPG", "c d é.webp")
    source = FolderSource(path, "train")
    assert names(source) == ["a.JPG", "b.png", "c d é.webp"]
    assert source.class_names == {} and set(source[0]) == {"image"}


def test_two_or_more_folders_are_classes_at_any_depth(tmp_path):
    source = FolderSource(make(tmp_path, "dog/deep/er/1.png", "cat/2.png"), "train")
    assert names(source) == ["cat/2.png", "dog/deep/er/1.png"]
    assert source.class_names == {"label": ("cat", "dog")}
    assert [source[i]["label"] for i in range(2)] == [0, 1]


@pytest.mark.parametrize("files", [("album/1.png",), ("1.png", "cat/2.png", "dog/3.png")])
def test_one_folder_or_pictures_beside_folders_are_unlabelled(tmp_path, files):
    assert FolderSource(make(tmp_path, *files), "train").class_names == {}


def test_split_folders_are_never_classes(tmp_path):
    path = make(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "Test/dog/4.png")
    assert names(FolderSource(path, "train")) == ["train/cat/1.png", "train/dog/2.png"]
    assert names(FolderSource(path, "validation")) == names(FolderSource(path, "val")) == ["val/cat/3.png"]
    assert names(FolderSource(path, "test")) == ["Test/dog/4.png"]


def test_a_label_means_the_same_in_every_split(tmp_path):
    path = make(tmp_path, "train/ape/1.png", "train/cat/1.png", "test/cat/2.png", "test/dog/3.png")
    train, test = FolderSource(path, "train"), FolderSource(path, "test")
    assert train.class_names == test.class_names == {"label": ("ape", "cat", "dog")}
    assert [test[i]["label"] for i in range(2)] == [1, 2]


def test_a_folder_without_pictures_is_no_class_from_either_split(tmp_path):
    path = make(tmp_path, "train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "test/dog/4.png")
    (tmp_path / "train" / "notes").mkdir()
    assert FolderSource(path, "train").class_names == FolderSource(path, "test").class_names
    assert FolderSource(path, "train").class_names["label"] == ("cat", "dog")


def test_an_unlabelled_training_split_may_stand_beside_a_labelled_test_split(tmp_path):
    path = make(tmp_path, "train/1.png", "test/cat/2.png", "test/dog/3.png")
    assert FolderSource(path, "train").class_names == {}
    assert FolderSource(path, "test").class_names == {"label": ("cat", "dog")}


def test_a_missing_split_lists_those_there_are(tmp_path):
    path = make(tmp_path, "train/1.png", "val/2.png")
    with pytest.raises(UserError, match="'test' is not in .* which has 'train', 'validation'"):
        FolderSource(path, "test")


def test_a_folder_without_splits_is_all_train(tmp_path):
    path = make(tmp_path, "1.png")
    assert len(FolderSource(path, "train")) == 1
    with pytest.raises(UserError, match="all of it is 'train'"):
        FolderSource(path, "test")


def test_val_and_validation_together_are_an_error(tmp_path):
    with pytest.raises(UserError, match="'val' and 'validation' are both the split 'validation'"):
        FolderSource(make(tmp_path, "val/1.png", "validation/2.png"), "val")


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match=r"no pictures in .*\.jpg"):
        FolderSource(str(tmp_path), "train")


def test_a_file_is_not_a_folder(tmp_path):
    make(tmp_path, "a.png")
    with pytest.raises(UserError, match="is a file"):
        FolderSource(str(tmp_path / "a.png"), "train")


def test_hidden_files_pipes_and_dangling_links_are_left_out(tmp_path):
    path = make(tmp_path, "a.png", ".hidden.png", ".cache/b.png", "._a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    assert names(FolderSource(path, "train")) == ["a.png"]


def test_a_loop_of_links_ends_and_links_are_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    make(elsewhere, "x/1.png")
    path = make(tmp_path / "set", "y/2.png")
    (tmp_path / "set" / "linked").symlink_to(elsewhere / "x")
    (tmp_path / "set" / "y" / "up").symlink_to(tmp_path / "set")
    assert names(FolderSource(path, "train")) == ["linked/1.png", "y/2.png"]


@pytest.mark.parametrize("target", ["test", "test/dog", "test/dog/4.png"])
def test_a_link_from_one_split_into_another_is_refused(tmp_path, target):
    path = make(tmp_path, "train/cat/1.png", "test/dog/4.png")
    (tmp_path / "train" / "link.png").symlink_to(tmp_path / target)
    with pytest.raises(UserError, match="in another split"):
        FolderSource(path, "train")


def test_two_splits_that_are_one_folder_are_refused(tmp_path):
    path = make(tmp_path, "train/1.png")
    (tmp_path / "test").symlink_to(tmp_path / "train")
    with pytest.raises(UserError, match="in another split"):
        FolderSource(path, "test")


def test_names_that_are_not_utf8_work(tmp_path):
    make(tmp_path, "a.png")
    os.rename(tmp_path / "a.png", os.path.join(os.fsencode(tmp_path), b"\xff.png"))
    assert FolderSource(str(tmp_path), "train")[0]["image"].startswith(b"\x89PNG")


def test_a_copy_by_pickle_reads_the_same(tmp_path):
    source = FolderSource(make(tmp_path, "cat/1.png", "dog/2.png"), "train")
    copy = pickle.loads(pickle.dumps(source))
    assert names(copy) == names(source) and copy[1] == source[1]


def captioned(root, **texts):
    """A folder with a picture for each text, and the text beside it (None: no file)."""
    path = make(root, *[f"{name}.png" for name in texts])
    for name, text in texts.items():
        if text is not None:
            (root / f"{name}.txt").write_bytes(text)
    return path


def texts(source):
    return [source[i]["text"] for i in range(len(source))]


def test_captions_are_the_lines_of_the_text_file_beside_a_picture(tmp_path):
    path = captioned(tmp_path, a=b" a cat\r\n\r\na tabby \n", b=None, c=b"\xef\xbb\xbfone", d="über".encode())
    (tmp_path / "alone.txt").write_text("of no picture")
    source = FolderSource(path, "train", ("text",))
    assert texts(source) == [("a cat", "a tabby"), (), ("one",), ("über",)]
    assert "text" not in FolderSource(path, "train")[0]


def test_broken_empty_and_endless_captions_have_their_rules(tmp_path):
    path = captioned(tmp_path, a=b"caf\xe9", b=b"", c=b" \n\n", d=b"x" * 3_000_000)
    assert texts(FolderSource(path, "train", ("text",))) == [("caf\ufffd",), (), (), ("x" * captions.MAX_CHARACTERS,)]


def test_names_that_differ_in_case_alone_are_two_pictures_with_their_own_captions(tmp_path):
    path = captioned(tmp_path, A=b"large", a=b"small")
    if len(os.listdir(path)) < 4:
        pytest.skip("this file system takes them for one")
    assert texts(FolderSource(path, "train", ("text",))) == [("large",), ("small",)]


def test_captions_that_nobody_wrote_are_an_error_that_names_a_file(tmp_path):
    with pytest.raises(UserError, match="captions of cat/1.png would be the lines of cat/1.txt"):
        FolderSource(make(tmp_path, "cat/1.png", "dog/2.png"), "train", ("text",))


def test_names_of_255_bytes_and_of_any_letters_work(tmp_path):
    long = "ü" * 125 + "x.png"
    source = FolderSource(make(tmp_path, long, "a\nb c'd.png"), "train")
    assert names(source) == ["a\nb c'd.png", long] and len(os.fsencode(long)) == 255
    assert all(source[i]["image"].startswith(b"\x89PNG") for i in range(2))


def test_what_cannot_be_read_is_named_or_a_bad_record(tmp_path, monkeypatch):
    source = FolderSource(make(tmp_path, "a.png"), "train")
    (tmp_path / "a.png").unlink()
    with pytest.raises(OSError):
        source[0]

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("vitjax.data.sources.folder._scan_local", lambda folder, suffixes: refuse(folder))
    with pytest.raises(UserError, match="cannot be read .Permission denied.; allow it"):
        FolderSource(str(tmp_path), "train")


def test_a_folder_at_a_url_reads_like_a_local_one(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (3, 2)).save(picture, format="PNG")
    root = f"memory://{tmp_path.name}/set"
    for name in ("train/cat/1.png", "train/dog/deep/2 é.png", "train/.hidden/3.png", "test/dog/4.png"):
        with fsspec.open(f"{root}/{name}", "wb") as file:
            file.write(picture.getvalue())
    with fsspec.open(f"{root}/train/cat/1.txt", "wb") as file:
        file.write(b"a cat")
    for path in (root, root + "/"):
        source = FolderSource(path, "train", ("text",))
        assert names(source) == ["train/cat/1.png", "train/dog/deep/2 é.png"]
        assert source.class_names == {"label": ("cat", "dog")}
        assert pickle.loads(pickle.dumps(source))[1] == {"image": picture.getvalue(), "label": 1, "text": ()}
        assert texts(source) == [("a cat",), ()]
    with pytest.raises(UserError, match="memory://.*/gone does not exist"):
        FolderSource(f"memory://{tmp_path.name}/gone", "train")


def test_clothing_photos_never_mix_splits(picture_sets):
    path = str(picture_sets / "clothing")
    counts = {"train": 1980, "validation": 341, "test": 372}
    listed = {split: names(FolderSource(path, split)) for split in counts}
    assert {split: len(files) for split, files in listed.items()} == counts
    assert all(name.startswith(split + "/") for split, files in listed.items() for name in files)
    assert FolderSource(path, "test").class_names["label"] == (
        "dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "shorts", "skirt", "t-shirt",
    )  # fmt: skip
