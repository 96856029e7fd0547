"""The list of undecodable pictures."""

import json

from vitjax.data import bad_records
from vitjax.data.bad_records import listed
from vitjax.data.decode import decode
from vitjax.data.sources.folder import FolderSource


def BadRecords(path, source):
    return bad_records.BadRecords(path, source, lambda index: decode(source[index]["image"]))


def broken_folder(tmp_path):
    (tmp_path / "set").mkdir()
    for name, data in (("a.png", b""), ("b.png", b"<html>"), ("c.png", b"")):
        (tmp_path / "set" / name).write_bytes(data)
    return FolderSource(str(tmp_path / "set"), "train")


def test_each_record_is_listed_once_with_name_and_reason(tmp_path):
    bad = BadRecords(tmp_path / "run" / "bad_records.jsonl", broken_folder(tmp_path))
    bad.add([-1, 1, 0, 1])
    bad.add([0, -1])
    lines = [json.loads(line) for line in (tmp_path / "run" / "bad_records.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["a.png", "b.png"]
    assert lines[0]["reason"] == "the file is empty" and "<html>" in lines[1]["reason"]
    assert bad.count == 2


def test_a_resumed_run_lists_nothing_twice(tmp_path):
    source, path = broken_folder(tmp_path), tmp_path / "bad.jsonl"
    BadRecords(path, source).add([0])
    resumed = BadRecords(path, source)
    assert resumed.count == 1
    resumed.add([0, 2])
    assert [record["index"] for record in listed(path)] == [0, 2]


def test_half_a_line_of_a_killed_run_does_no_harm(tmp_path):
    source, path = broken_folder(tmp_path), tmp_path / "bad.jsonl"
    BadRecords(path, source).add([0])
    with open(path, "a") as file:
        file.write('{"index": 1, "na')
    BadRecords(path, source).add([0, 1])
    assert [record["index"] for record in listed(path)] == [0, 1]


def test_nothing_bad_writes_no_file(tmp_path):
    BadRecords(tmp_path / "bad.jsonl", broken_folder(tmp_path)).add([-1, -1])
    assert not (tmp_path / "bad.jsonl").exists()


def test_records_of_two_sources_share_one_file(tmp_path):
    first, path = broken_folder(tmp_path), tmp_path / "bad.jsonl"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "z.png").write_bytes(b"")
    second = FolderSource(str(tmp_path / "other"), "train")
    BadRecords(path, first).add([0])
    other = BadRecords(path, second)
    assert other.count == 0
    other.add([0])
    assert [record["name"] for record in listed(path)] == ["a.png", "z.png"]


def test_what_decodes_at_the_second_try_is_listed_as_such(tmp_path):
    source = broken_folder(tmp_path)
    (tmp_path / "set" / "a.png").write_bytes(b"")
    from PIL import Image

    Image.new("RGB", (2, 2)).save(tmp_path / "set" / "a.png")
    BadRecords(tmp_path / "bad.jsonl", source).add([0])
    assert "tried again" in listed(tmp_path / "bad.jsonl")[0]["reason"]


def test_too_many_are_told_from_a_few_and_by_their_reasons(tmp_path):
    records = BadRecords(None, broken_folder(tmp_path))
    records.add([0, 1, 2])
    assert records.too_many(3, 0.9) and not records.too_many(3, 1.0)
    first, second = records.reasons().splitlines()
    assert "2  the file is empty: a.png" in first and "1  not a" in second and "b.png" in second
