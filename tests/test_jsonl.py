"""Files of JSON lines that a killed process may have left torn."""

import os

import pytest

from vitjax import jsonl


def test_a_line_after_a_torn_one_is_whole(tmp_path):
    file = tmp_path / "rows.jsonl"
    jsonl.append(file, {"step": 1})
    file.write_text(file.read_text() + '{"step": 2, "lo')
    jsonl.append(file, {"step": 3})
    assert jsonl.read(file) == [{"step": 1}, {"step": 3}]


def test_there_may_be_no_file_and_lines_that_are_no_objects(tmp_path):
    assert jsonl.read(tmp_path / "rows.jsonl") == []
    (tmp_path / "rows.jsonl").write_bytes(b'[1]\n\xff\n{"step": 1}\n')
    assert jsonl.read(tmp_path / "rows.jsonl") == [{"step": 1}]


def test_only_what_is_wanted_stays_and_a_kill_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "rows.jsonl"
    for step in range(4):
        jsonl.append(file, {"step": step})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        jsonl.keep(file, lambda row: row["step"] < 2)
    assert len(jsonl.read(file)) == 4
    jsonl.keep(file, lambda row: row["step"] < 2)
    assert jsonl.read(file) == [{"step": 0}, {"step": 1}]


def test_a_number_that_json_has_not_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        jsonl.append(tmp_path / "rows.jsonl", {"loss": float("nan")})
