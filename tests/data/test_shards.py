"""Which files belong to a set, and to which of its splits."""

import fsspec
import pytest

from vitjax.data.shards import is_pattern, shard_files, shards_of
from vitjax.errors import UserError


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    """(where files can be laid, a function that lays them there)"""
    root = str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"

    def lay(*names):
        for name in names:
            with fsspec.open(f"{root}/{name}", "wb", auto_mkdir=True) as file:
                file.write(b"-")

    return root, lay


def found(root, path, *suffixes):
    splits = shard_files(f"{root}/{path}".rstrip("/"), suffixes or (".tar",))
    return {split: [name.rsplit(root, 1)[1][1:] for name in names] for split, names in splits.items()}


def test_shards_lie_in_the_folder_in_data_or_in_folders_of_splits(place):
    root, lay = place
    lay("a/1.tar", "a/0.tar", "a/0.json", "b/data/0.tar", "c/train/0.tar", "c/Val/0.tar", "c/more/0.tar")
    assert found(root, "a") == {None: ["a/0.tar", "a/1.tar"]}
    assert found(root, "b") == {None: ["b/data/0.tar"]}
    assert found(root, "c") == {"train": ["c/train/0.tar"], "validation": ["c/Val/0.tar"]}
    assert found(root, "a/0.tar") == {None: ["a/0.tar"]}
    assert found(root, "a", ".parquet") == {None: []}


def test_the_number_of_a_shard_may_follow_its_suffix(place):
    root, lay = place
    lay("set-train.array_record-00000-of-00002", "set-train.array_record-00001-of-00002")
    lay("set-test.array_record-00000-of-00001", "set.json")
    splits = found(root, "", ".array_record")
    assert {name: len(names) for name, names in splits.items()} == {"train": 2, "test": 1}


def test_a_pattern_takes_the_files_that_it_spells(place):
    root, lay = place
    lay(*[f"{vendor}/{n:03}.{kind}" for vendor in "ab" for n in range(4) for kind in ("tar", "json")])
    assert found(root, "*/00[01].tar") == {None: ["a/000.tar", "a/001.tar", "b/000.tar", "b/001.tar"]}
    assert found(root, "{a,b}/{002..003}.*") == {None: ["a/002.tar", "a/003.tar", "b/002.tar", "b/003.tar"]}
    assert found(root, "a/{000..001}.tar") == {None: ["a/000.tar", "a/001.tar"]}
    with pytest.raises(UserError, match="b/004.tar does not exist"):
        found(root, "b/{002..004}.tar")


def test_a_name_with_signs_of_a_pattern_is_itself_where_it_exists(tmp_path):
    (tmp_path / "a [1].tar").touch()
    assert not is_pattern(str(tmp_path / "a [1].tar")) and is_pattern(str(tmp_path / "b [1].tar"))
    assert not is_pattern("https://host/a.tar?key=1")


def test_a_split_is_chosen_and_half_named_splits_are_refused(place):
    root, lay = place
    lay("a/train-0.tar", "a/val-0.tar", "b/train-0.tar", "b/1.tar", "c/0.tar")
    mine, every = shards_of(f"{root}/a", (".tar",), "val")
    assert [len(mine), len(every)] == [1, 2] and mine[0].endswith("val-0.tar")
    with pytest.raises(UserError, match="'1.tar' names no split"):
        shards_of(f"{root}/b", (".tar",), "train")
    with pytest.raises(UserError, match="all of it is 'train'"):
        shards_of(f"{root}/c", (".tar",), "test")
    with pytest.raises(UserError, match=r"no \.parquet files there"):
        shards_of(f"{root}/a", (".parquet",), "train")
    with pytest.raises(UserError, match="does not exist"):
        shards_of(f"{root}/d", (".tar",), "train")
