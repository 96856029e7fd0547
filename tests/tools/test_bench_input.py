"""The input bench: it reads the same pictures in each form, counts what it says, and compares equal things."""

import itertools
from types import SimpleNamespace

import bench_input
import forms
import numpy as np
import pytest
import simplejpeg

from vitjax.data.decode import decode
from vitjax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "pictures" / "some").mkdir(parents=True)
    for number in range(6):
        picture = rng.integers(0, 256, (300, 40), np.uint8).repeat(10, 1)[..., None].repeat(3, -1)
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), 90)
        (tmp_path / "pictures" / "some" / f"{number}.jpg").write_bytes(data)
    return tmp_path / "pictures"


def test_each_source_and_decoder_has_its_line_beside_pytorch(folder, capsys):
    pytest.importorskip("torch")
    small = ["--batch_size=2", "--size_px=16", "--batches=1", "--rounds=1", "--workers=1"]
    assert bench_input.main([f"--path={folder}", *small]) == 0
    printed = capsys.readouterr().out
    for line in (
        "one thread",
        "two views",
        "PyTorch, Pillow",
        "vitjax, parquet",
        "vitjax, table",
        "vitjax, prepared, array_record",
        "1 processes",
    ):
        assert line in printed, printed


def test_captions_are_tokenised_beside_a_picture_that_is_decoded(folder, tmp_path):
    (tmp_path / "captions.txt").write_text("a cat\n\na dog\n")
    values = SimpleNamespace(captions=str(tmp_path / "captions.txt"), tokenizers="bytes", batch_size=3)
    sides = bench_input.captions({"folder": folder}, values, None)
    pictures, tokens = (next(side) for side in sides.values())
    assert list(sides) == ["decoding a picture", "a caption, bytes"] and pictures[0].shape == (300, 400, 3)
    assert [row[:7].tolist() for row in tokens[:2]] == [[1, *(3 + b for b in word), 2] for word in (b"a cat", b"a dog")]
    (tmp_path / "captions.txt").write_text("")
    with pytest.raises(UserError, match="captions.txt holds no captions"):
        bench_input.captions({"folder": folder}, values, None)


def test_all_forms_hold_the_same_pictures(folder, tmp_path):
    paths = forms.write(folder, tmp_path)
    values = SimpleNamespace(batch_size=6, size_px=400)
    seen = {}
    for name, path in paths.items():
        with bench_input.loader(path, values, crop="device", workers=0) as batches:
            batch = next(batches)
        assert sorted(batch["index"]) == list(range(6))
        seen[name] = batch["image"][np.argsort(batch["index"])]
    small = [seen.pop(name) for name in list(seen) if name.startswith("prepared")]
    for same in (small, list(seen.values())):
        assert len(same) > 1 and all(np.array_equal(images, same[0]) for images in same)


def test_a_prepared_picture_is_smaller_and_a_small_one_stays(folder):
    data = forms.read(folder)[0]
    assert decode(forms.prepared(data)).shape == (256, 341, 3)
    assert forms.prepared(forms.prepared(data)) == forms.prepared(data)


def test_what_was_decoded_ahead_is_not_counted_and_figures_are_those_of_a_picture(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(bench_input.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(bench_input, "cpu_seconds", lambda: 2 * clock[0])

    def side(seconds):
        for n in itertools.count():
            clock[0] += seconds if n % (bench_input.NOT_COUNTED + 3) >= bench_input.NOT_COUNTED else 100.0
            yield n

    values = SimpleNamespace(rounds=2, batches=3, batch_size=4)
    times = bench_input.take_turns({"theirs": side(8.0), "ours": side(4.0)}, values)
    assert times["theirs"] == ([2.0, 2.0], [4.0, 4.0]) and times["ours"] == ([1.0, 1.0], [2.0, 2.0])
    title, theirs, ours = bench_input.table("some", times).strip().splitlines()
    assert theirs.split() == ["theirs", "0", "0"] and "2.000 (2.000 to 2.000)" in ours


def test_the_time_of_child_processes_counts():
    context = bench_input.multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        pool.apply(int)  # started
        before = bench_input.cpu_seconds()
        pool.apply(sum, (range(20_000_000),))
        assert bench_input.cpu_seconds() - before > 0.1


def test_a_folder_without_pictures_and_a_bench_of_nothing_are_refused(tmp_path):
    with pytest.raises(UserError, match=f"--path={tmp_path}: no JPEG"):
        bench_input.main([f"--path={tmp_path}"])
    with pytest.raises(UserError, match="--rounds=0 must be at least 1"):
        bench_input.main([f"--path={tmp_path}", "--rounds=0"])
