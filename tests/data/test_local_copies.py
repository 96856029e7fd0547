"""Local copies of remote files: whole, fresh, bounded."""

import threading
from pathlib import Path

import fsspec
import pytest

from vitjax.data import files, local_copies
from vitjax.errors import UserError


@pytest.fixture
def remote(tmp_path):
    """A folder in memory with two files."""
    fs, url = fsspec.filesystem("memory"), f"memory://{tmp_path.name}"
    for name in "ab":
        fs.pipe(f"{url}/{name}", name.encode() * 1000)
    return url


def copied(monkeypatch):
    """The URLs that are fetched from now on."""
    fetched, copy = [], files.copy
    monkeypatch.setattr(files, "copy", lambda url, path: (fetched.append(url), copy(url, path)))
    return fetched


def ensure(remote, tmp_path, cache_gb=1.0, names="ab"):
    return local_copies.ensure([f"{remote}/{name}" for name in names], str(tmp_path / "cache"), cache_gb)


def test_files_are_copied_once_and_keep_their_names(remote, tmp_path, monkeypatch):
    fetched = copied(monkeypatch)
    paths = ensure(remote, tmp_path)
    assert [Path(p).read_bytes()[:1] for p in paths] == [b"a", b"b"] and len({Path(p).parent for p in paths}) == 1
    assert ensure(remote, tmp_path) == paths and len(fetched) == 2


def test_a_file_that_changed_is_copied_anew(remote, tmp_path, monkeypatch):
    ensure(remote, tmp_path)
    fetched = copied(monkeypatch)
    fsspec.filesystem("memory").pipe(f"{remote}/b", b"c" * 1000)
    assert Path(ensure(remote, tmp_path)[1]).read_bytes() == b"c" * 1000
    assert fetched == [f"{remote}/b"]


def test_a_copy_that_was_cut_short_is_made_again(remote, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "copy", lambda url, path: (Path(path).write_bytes(b"a"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        ensure(remote, tmp_path)
    left = tmp_path / "cache" / "copies" / "dead"
    left.mkdir()
    (left / "x.part").write_bytes(b"-" * 1000)
    monkeypatch.undo()
    for path in ensure(remote, tmp_path):
        assert Path(path).stat().st_size == 1000
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_many_at_once_copy_once(remote, tmp_path, monkeypatch):
    fetched = copied(monkeypatch)
    threads = [threading.Thread(target=ensure, args=(remote, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 2


def test_a_cache_smaller_than_the_set_is_refused_with_both_sizes(remote, tmp_path):
    with pytest.raises(UserError, match=r"cache_gb=1e-06 is smaller than the set: .*2e-06 GB"):
        ensure(remote, tmp_path, cache_gb=1e-6)
    assert not (tmp_path / "cache").exists()


def test_copies_of_other_sets_count(remote, tmp_path):
    ensure(remote, tmp_path, names="a")
    other = f"{remote}/other"
    fsspec.filesystem("memory").pipe(f"{other}/c", b"c" * 1000)
    with pytest.raises(UserError, match=r"holds 1\.\d*e-06 GB of other copies, and this set needs 1e-06 GB"):
        local_copies.ensure([f"{other}/c"], str(tmp_path / "cache"), 1.5e-6)


def test_a_missing_file_and_a_place_that_cannot_be_written_are_named(remote, tmp_path):
    with pytest.raises(UserError, match="cannot keep copies.*nowhere"):
        ensure(remote, tmp_path, names=["nowhere"])
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="config.data.cache_dir=.*cannot keep copies"):
        ensure(remote, tmp_path)
