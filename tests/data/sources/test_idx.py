"""Files of MNIST's form: splits, labels, damage."""

import gzip
import pickle
import struct

import numpy as np
import pytest

from vitjax.data.sources import open_source
from vitjax.data.sources.folder import FolderSource
from vitjax.data.sources.idx import IdxSource
from vitjax.errors import UserError


def idx(array) -> bytes:
    array = np.asarray(array, np.uint8)
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(root, split, pictures, labels=None, suffix=""):
    """Files of `pictures` pictures of 2 x 3 pixels, the first all 0, the second all 1, .."""
    images = np.arange(pictures)[:, None, None] * np.ones((2, 3))
    pack = gzip.compress if suffix else bytes
    (root / f"{split}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
    if labels is not None:
        (root / f"{split}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels)))
    return str(root)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_pictures_are_rgb_with_their_labels_one_by_one_and_many_at_once(tmp_path, settings, suffix):
    write(tmp_path, "t10k", 2, [9, 0], suffix)
    source = open_source(settings(path=write(tmp_path, "train", 3, [4, 1, 2], suffix)), "train")
    assert isinstance(source, IdxSource)
    assert source.class_names == {"label": tuple("0123456789")}
    assert (
        source[1]["image"].shape == (2, 3, 3) and (source[1]["image"] == 1).all() and source[1]["label"] == 1
    )
    many = source.gather(np.array([2, 0]))
    assert many["image"].shape == (2, 2, 3, 3) and many["image"].dtype == np.uint8
    assert many["image"][:, 0, 0, 0].tolist() == [2, 0] and many["label"].tolist() == [2, 4]


def test_t10k_is_the_split_test(tmp_path):
    write(tmp_path, "train", 3, [0, 1, 2])
    path = write(tmp_path, "t10k", 2, [1, 0])
    assert len(IdxSource(path, "test")) == 2 and IdxSource(path, "test").name(1) == "test/1"
    with pytest.raises(UserError, match="'validation' is not in .* which has 'test', 'train'"):
        IdxSource(path, "validation")


def test_without_labels_there_are_none(tmp_path):
    source = IdxSource(write(tmp_path, "train", 2), "train")
    assert source.class_names == {} and set(source[0]) == set(source.gather(np.array([0]))) == {"image"}


def test_a_copy_by_pickle_reads_the_files_again(tmp_path):
    source = IdxSource(write(tmp_path, "train", 200, range(200)), "train")
    assert len(pickle.dumps(source)) < 500
    assert pickle.loads(pickle.dumps(source))[7]["label"] == 7


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[:-1], "has 11 bytes where its header says 12"),
        (lambda data: data + b"x", "has more bytes where its header says 12"),
        (lambda data: data[:9], "cannot be read"),
        (lambda data: b"<html>" + data, "does not begin as an array of bytes with 3 axes"),
        (lambda data: data[:4] + b"\xff" * 12, "its header says"),
        (lambda data: b"", "cannot be read"),
    ],
)
def test_a_damaged_file_is_named_and_takes_no_memory(tmp_path, damage, message):
    path = write(tmp_path, "train", 2, [0, 1])
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=f"train-images-idx3-ubyte .*{message}"):
        IdxSource(path, "train")


def test_a_gz_that_is_cut_or_none_or_holds_far_more_is_named(tmp_path):
    path = write(tmp_path, "train", 2, [0, 1], ".gz")
    file = tmp_path / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    for data in (whole[:-12], b"no gzip", gzip.compress(idx(np.zeros((1, 2, 2))) + bytes(1 << 24))):
        file.write_bytes(data)
        with pytest.raises(UserError, match="train-images-idx3-ubyte.gz (cannot be read|has more bytes)"):
            IdxSource(path, "train")


def test_labels_that_do_not_fit_to_the_pictures_are_an_error(tmp_path, settings):
    path = write(tmp_path, "train", 2, [0, 1, 2])
    with pytest.raises(UserError, match="has 3 labels for 2 pictures"):
        IdxSource(path, "train")
    (tmp_path / "train-images-idx3-ubyte").rename(tmp_path / "images")
    with pytest.raises(UserError, match="no files named as train-images-idx3-ubyte"):
        IdxSource(path, "train")
    (tmp_path / "a.png").write_bytes(b"")
    assert isinstance(open_source(settings(path=path), "train"), FolderSource)
