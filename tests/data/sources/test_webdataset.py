"""Tar shards: samples, captions, labels, splits, patterns, damage, remote files."""

import io
import json
import logging
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import fsspec
import pytest

from vitjax.data import captions, files
from vitjax.data.sources import open_source
from vitjax.data.tar_scan import MAX_JSON_BYTES
from vitjax.errors import UserError


def tar(members, format=tarfile.GNU_FORMAT):
    """The bytes of a tar of {name: bytes, a dict for JSON, or a TarInfo for anything else}."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=format) as made:
        for name, value in members.items():
            info = value if isinstance(value, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = json.dumps(value).encode() if isinstance(value, dict) else value
            if isinstance(data, bytes):
                info.size = len(data)
            made.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return held.getvalue()


def write(file, members, **how):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(tar(members, **how))


@pytest.fixture
def opened(tmp_path):
    def open_it(path, split="train", **settings):
        defaults = dict(source="auto", tfds="", fields=(), label_columns=(), text_columns=())
        defaults |= dict(cache_dir=str(tmp_path / "cache"))
        return open_source(SimpleNamespace(path=str(path), **(defaults | settings)), split)

    return open_it


def records(source):
    return [source[i] for i in range(len(source))]


def names(source):
    return [source.name(i) for i in range(len(source))]


def test_a_sample_is_the_members_of_one_path_up_to_the_first_dot_of_its_last_part(tmp_path, opened):
    members = {"v1.0/b.jpg": b"B", "v1.0/b.seg.png": b"-", "a.PNG": b"A", "v1.0/b.txt": b"bee", "./a.txt": b"ay"}
    write(tmp_path / "x.tar", members | {"._a.jpg": b"-", "lonely.txt": b"-", "notes.md": b"-"})
    source = opened(tmp_path / "x.tar", fields=("text",))
    assert records(source) == [{"image": b"B", "text": ("bee",)}, {"image": b"A", "text": ("ay",)}]
    assert names(source) == ["x.tar:v1.0/b", "x.tar:a"]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_names_that_are_not_ascii_are_read(tmp_path, opened, format):
    key = "ä/" + "long" * 60
    write(tmp_path / "x.tar", {f"{key}.jpg": b"A", f"{key}.txt": b"t"}, format=format)
    source = opened(tmp_path, fields=("text",))
    assert records(source) == [{"image": b"A", "text": ("t",)}] and names(source) == [f"x.tar:{key}"]


def test_captions_come_where_they_are_asked_for_and_are_cleaned(tmp_path, opened):
    texts = [b"a \xff cat\n", b" \n", b"x" * 50_000, None]
    members = {}
    for i, text in enumerate(texts):
        members |= {f"{i}.jpg": b"P"} | ({f"{i}.txt": text} if text else {})
    write(tmp_path / "x.tar", members | {"3.json": {"caption": "from json"}})
    found = [record["text"] for record in records(opened(tmp_path, fields=("text",)))]
    assert found == [("a � cat",), (), ("x" * captions.MAX_CHARACTERS,), ("from json",)]
    assert set(opened(tmp_path)[0]) == {"image"}


def test_captions_of_columns_are_those_of_each_column_in_turn(tmp_path, opened):
    write(tmp_path / "x.tar", {"a.jpg": b"P", "a.txt": b"t", "a.json": {"long": "l", "short": ["s", "", None]}})
    asked = dict(fields=("text",), text_columns=("short", "txt", "long"))
    assert opened(tmp_path, **asked)[0]["text"] == ("s", "t", "l")
    with pytest.raises(UserError, match=r"text_columns=\('lang',\).*none has 'lang'.*there are: long, short, txt"):
        opened(tmp_path, fields=("text",), text_columns=("lang",))


def test_damaged_json_is_a_sample_without_columns(tmp_path, opened):
    endless = b'{"caption": "' + b"x" * MAX_JSON_BYTES + b'"}'
    damaged = [b"{", b"[" * 100_000, b"[1]", endless, b'{"caption": "\xff"}']
    members = {"0.jpg": b"P", "0.json": {"caption": "c", "class": "k"}}
    for i, data in enumerate(damaged, 1):
        members |= {f"{i}.jpg": b"P", f"{i}.json": data}
    write(tmp_path / "x.tar", members)
    found = records(opened(tmp_path, fields=("text",), label_columns=("class",)))
    assert [record["text"] for record in found] == [("c",), (), (), (), (), ("�",)]
    assert [record["label"] for record in found] == [0, -1, -1, -1, -1, -1]


def test_cls_files_are_labels(tmp_path, opened):
    write(tmp_path / "x.tar", {"a.jpg": b"A", "a.cls": b"2\n", "b.jpg": b"B", "c.jpg": b"C", "c.cls": b"0"})
    source = opened(tmp_path)
    assert [record["label"] for record in records(source)] == [2, -1, 0]
    assert source.class_names == {"label": ("0", "1", "2")}


def test_columns_are_labels_that_mean_the_same_in_every_split(tmp_path, opened):
    write(tmp_path / "train-0.tar", {"a.jpg": b"A", "a.json": {"class": "dog", "n": 1}})
    write(tmp_path / "test-0.tar", {"b.jpg": b"B", "b.json": {"class": "cat", "n": 0}})
    one = opened(tmp_path, "test", label_columns=("class",))
    assert records(one) == [{"image": b"B", "label": 0}] and one.class_names == {"label": ("cat", "dog")}
    two = opened(tmp_path, label_columns=("class", "n"))
    assert records(two) == [{"image": b"A", "label/class": 1, "label/n": 1}]
    with pytest.raises(UserError, match="no sample .* in 'klass'"):
        opened(tmp_path, label_columns=("klass",))


def test_a_path_is_a_folder_of_tars_or_of_folders_or_a_pattern(tmp_path, opened):
    for name in ("google/0", "google/1", "twitter/0", "twitter/1"):
        write(tmp_path / f"{name}.tar", {f"{name[0]}{name[-1]}.jpg": b"P"})
    assert names(opened(tmp_path / "google")) == ["0.tar:g0", "1.tar:g1"]
    every = ["google/0.tar:g0", "google/1.tar:g1", "twitter/0.tar:t0", "twitter/1.tar:t1"]
    assert names(opened(tmp_path)) == every
    assert names(opened(tmp_path / "*" / "[0].tar")) == every[::2]
    assert names(opened(tmp_path / "{google,twitter}" / "{0..1}.tar")) == every
    with pytest.raises(UserError, match="2.tar does not exist"):
        opened(tmp_path / "google" / "{0..2}.tar")
    with pytest.raises(UserError, match="no .tar files there"):
        opened(tmp_path / "*" / "9*.tar", source="webdataset")


def test_splits_are_folders_or_begin_the_names(tmp_path, opened):
    write(tmp_path / "train" / "0.tar", {"a.jpg": b"A"})
    write(tmp_path / "val" / "0.tar", {"b.jpg": b"B"})
    assert names(opened(tmp_path, "validation")) == ["val/0.tar:b"]
    assert names(opened(tmp_path)) == ["train/0.tar:a"]
    with pytest.raises(UserError, match="'test' is not in .* which has 'train', 'validation'"):
        opened(tmp_path, "test")


@pytest.mark.parametrize("beside", ["a.jpg", "dogs/a.jpg", "train/dogs/a.jpg"])
def test_an_archive_beside_pictures_is_not_taken_for_the_set(tmp_path, opened, beside):
    write(tmp_path / "cats" / "backup.tar", {"old.jpg": b"-"})
    write(tmp_path / "train-backup.tar", {"old.jpg": b"-"})
    (tmp_path / beside).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / beside).write_bytes(b"P")
    assert records(opened(tmp_path))[0]["image"] == b"P"


@pytest.mark.parametrize("lost", [1, 700, 1400])
def test_a_tar_that_was_cut_yields_its_whole_samples_and_says_so(tmp_path, opened, caplog, lost):
    whole = tar({"a.jpg": b"A" * 600, "a.txt": b"a", "b.jpg": b"B" * 600, "b.txt": b"b" * 600})
    end = len(whole.rstrip(b"\0"))  # the last byte of b.txt
    (tmp_path / "x.tar").write_bytes(whole[: end - lost])
    assert names(opened(tmp_path, fields=("text",))) == ["x.tar:a"]
    assert "x.tar is damaged" in caplog.text and "its first 1 samples" in caplog.text


def test_links_and_names_that_lead_out_are_passed_over_and_counted(tmp_path, opened, caplog):
    link, device = tarfile.TarInfo("link.jpg"), tarfile.TarInfo("device.jpg")
    link.type, link.linkname, device.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.CHRTYPE
    outside = {"../a.jpg": b"-", "/b.jpg": b"-", "c/../d.jpg": b"-"}
    write(tmp_path / "x.tar", outside | {"l": link, "d": device, "e.jpg": b"E"})
    assert names(opened(tmp_path)) == ["x.tar:e"]
    assert "3 names that lead out" in caplog.text and "2 links" in caplog.text


def test_what_is_no_tar_or_holds_no_pictures_is_an_error(tmp_path, opened):
    write(tmp_path / "a" / "x.tar", {"a.txt": b"t"})
    with pytest.raises(UserError, match="hold no pictures"):
        opened(tmp_path / "a")
    (tmp_path / "a" / "y.tar").write_bytes(b"\x1f\x8b" * 1000)
    with pytest.raises(UserError, match="y.tar cannot be read as tar"):
        opened(tmp_path / "a")
    write(tmp_path / "b" / "x.tar", {"a.jpg": b"P"})
    with pytest.raises(UserError, match="there are: none"):
        opened(tmp_path / "b", fields=("text",))


def test_the_index_is_made_once_and_again_for_a_changed_file(tmp_path, opened, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path / "x.tar", {"a.jpg": b"A"})
    for _ in range(2):
        assert names(opened(tmp_path)) == ["x.tar:a"]
    assert caplog.text.count("indexing") == 1
    write(tmp_path / "x.tar", {"a.jpg": b"A", "b.jpg": b"B" * 20_000})
    assert names(opened(tmp_path)) == ["x.tar:a", "x.tar:b"]
    for kept in (tmp_path / "cache").rglob("spans.npy"):
        kept.write_bytes(kept.read_bytes()[:-8])
    assert names(opened(tmp_path)) == ["x.tar:a", "x.tar:b"]
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="config.data.cache_dir=.*cannot keep"):
        opened(tmp_path, cache_dir=str(tmp_path / "file"))


def test_many_threads_read_at_once_and_a_copy_by_pickle_is_small(tmp_path, opened):
    for shard in range(2):
        write(tmp_path / f"{shard}.tar", {f"{i}.jpg": bytes([shard, i]) * 99 for i in range(200)})
    source = opened(tmp_path)
    packed = pickle.dumps(source)
    assert len(packed) < 3000
    copy = pickle.loads(packed)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(copy.__getitem__, range(400))) == records(source)
    with pytest.raises(IndexError):
        source[400]


def test_a_tar_that_shrank_since_it_was_indexed_gives_bad_records(tmp_path, opened):
    write(tmp_path / "x.tar", {"a.jpg": b"A", "b.jpg": b"B" * 900})
    source = opened(tmp_path)
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:1800])
    assert source[0]["image"] == b"A"
    with pytest.raises(OSError, match="ends at byte"):
        source[1]


def test_remote_tars_are_read_by_ranges(opened, monkeypatch):
    store = fsspec.filesystem("memory")
    for shard in range(2):
        store.pipe(f"/tars/{shard}.tar", tar({f"{shard}.jpg": b"P" * 3000, f"{shard}.txt": b"t%d" % shard}))
    source = opened("memory://tars/", fields=("text",))
    read, ranges = files.read, []
    monkeypatch.setattr(files, "read", lambda *where: ranges.append(where) or read(*where))
    assert [record["text"] for record in records(source)] == [("t0",), ("t1",)]
    assert [stop - start for _, start, stop in ranges] == [3072 + 512 + 2] * 2  # a sample in one go
    assert names(opened("memory://tars/{1..1}.tar")) == ["1.tar:1"]


def test_emoji_come_with_their_captions(picture_sets, opened):
    google = opened(picture_sets / "emoji" / "google", fields=("text",))
    assert len(google) == 1911 and google[0]["text"] == ("mirror",)
    kept = opened(picture_sets / "emoji" / "*" / "00000[01].tar", label_columns=("category",))
    assert len(kept) == 3442 and len(kept.class_names["label"]) == 10
