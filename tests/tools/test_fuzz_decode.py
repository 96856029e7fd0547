"""The fuzzer: a few hundred mutants of each format, and what it says where one of them is no good."""

import sys
from unittest import mock

import decoders
import fuzz_decode
import pytest

from vitjax.data import decode
from vitjax.errors import UserError

# Pillow's, on EXIF; pytest takes back what vitjax.data.decode asks for.
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


@pytest.mark.parametrize("way", fuzz_decode.WAYS)
def test_mutants_are_decoded_or_refused(way, tmp_path):
    (tmp_path / "at").write_text("0")
    figures = fuzz_decode.fuzz(way, 300, 1, str(tmp_path / "at"))
    assert figures["decoded"] > 0 and figures["refused"] > 0
    assert int((tmp_path / "at").read_text()) == 299


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_what_is_mutated_is_sound_and_a_mutant_is_a_pure_function(kind):
    files = fuzz_decode.sound(kind)
    assert all(fuzz_decode.decode_or_refuse(decode.decode, data) for data in files)
    some = [fuzz_decode.mutant(files, kind, 0, n) for n in range(20)]
    assert some == [fuzz_decode.mutant(files, kind, 0, n) for n in range(20)]
    assert sum(data in files for data in some) < 5


def test_an_error_of_another_kind_comes_out(tmp_path, monkeypatch):
    def faulty(data, max_pixels):
        raise KeyError("a parser's")

    monkeypatch.setitem(fuzz_decode.WAYS, "faulty", ("BMP", "simplejpeg", faulty))
    with pytest.raises(KeyError):
        fuzz_decode.fuzz("faulty", 1, 0, str(tmp_path / "at"))


@pytest.mark.parametrize(
    "ends, why",
    [("os.abort()", "ended with code -6"), ("sys.exit('KeyError')", "ended with code 1 at mutant 3")],
)
def test_a_process_that_ends_early_is_named_with_its_mutant(ends, why, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = f"import os, sys; open(sys.argv[1].removeprefix('--at='), 'w').write('3'); {ends}"
    said, failed = fuzz_decode.watch([sys.executable, "-c", program], "BMP", 0)
    assert failed and why in said
    kept = tmp_path / "fuzz-BMP-0-3.bmp"
    assert str(kept) in said
    assert kept.read_bytes() == fuzz_decode.mutant(fuzz_decode.sound("BMP"), "BMP", 0, 3)


def test_one_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = "import faulthandler, time; faulthandler.dump_traceback_later(0.1, exit=True); time.sleep(60)"
    assert "hung at mutant 0" in fuzz_decode.watch([sys.executable, "-c", program], "BMP", 0)[0]


def test_each_way_has_its_line(monkeypatch, capsys):
    monkeypatch.setattr(fuzz_decode, "WAYS", {"BMP": fuzz_decode.WAYS["BMP"]})
    assert fuzz_decode.main(["--count=20"]) == 0
    assert "BMP" in (printed := capsys.readouterr().out) and "decoded" in printed and "more memory" in printed


def test_nothing_to_do_is_refused():
    with pytest.raises(UserError, match="--count=0 must be at least 1"):
        fuzz_decode.main(["--count=0"])


@pytest.mark.parametrize(
    "name, wanted", [("simplejpeg", [1, 0, 0]), ("opencv", [0, 1, 0]), ("pillow", [0, 0, 1])]
)
def test_only_one_decoder_is_used(name, wanted, monkeypatch):
    ways = [f"_by_{name}" for name in decoders.NAMES]
    used = [mock.Mock(wraps=getattr(decode, way)) for way in ways]
    for way, count in zip(ways, used):
        monkeypatch.setattr(decode, way, count)
    with decoders.only(name):
        decode.decode(fuzz_decode.sound("JPEG")[0])
    assert [count.call_count for count in used] == wanted
