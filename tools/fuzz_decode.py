"""Damaged picture files through the decoder: no crash, no hang, no error but Undecodable, bounded memory.

    python tools/fuzz_decode.py
    python tools/fuzz_decode.py --count=1000 --seed=7

Each format has a process of its own, so that a crash is seen. It decodes --count mutants of some sound files:
bits flipped, bytes overwritten (most of them in the header) and lost, parts exchanged between files, ends cut. In
most mutants of PNG the checksums are made right again, or none would get any further. JPEG is decoded by
each of the three decoders, PNG also as a mask.

A mutant is a pure function of (format, seed, number). One that fails is kept in a file, which is named, and the
exit code is then 1.
"""

import argparse
import faulthandler
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import decoders
import numpy as np
from PIL import Image

from vitjax import cli
from vitjax.data.decode import Undecodable, decode, decode_mask
from vitjax.errors import UserError

MAX_PIXELS = 1_000_000
# Beside the interpreter and the libraries. A picture of MAX_PIXELS takes 4 MB a copy as RGBA, of which Pillow
# holds some at once.
MAX_GROWTH_MB = 64
HANG_S = 10.0
WAYS: dict[str, tuple[str, str, Callable]] = {
    **{f"JPEG by {name}": ("JPEG", name, decode) for name in decoders.NAMES},
    **{kind: (kind, "simplejpeg", decode) for kind in ("PNG", "WEBP", "BMP", "TIFF")},
    "PNG as a mask": ("PNG", "simplejpeg", decode_mask),
}


def main(argv: Sequence[str]) -> int:
    """Prints a line for each way; 1 if any failed."""
    options = cli.parser("fuzz_decode", __doc__)
    options.prog = "python tools/fuzz_decode.py"
    options.add_argument("--count", type=int, default=10_000, help="mutants of each format")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # what a process of this program does
    options.add_argument("--at", help=argparse.SUPPRESS)
    values, _ = cli.parse(options, argv)
    if values.count < 1 or values.seed < 0:
        raise UserError(f"--count={values.count} must be at least 1, and --seed={values.seed} at least 0")
    if values.way:
        print(json.dumps(fuzz(values.way, values.count, values.seed, values.at)))
        return 0
    failures = 0
    for way in WAYS:
        program = [
            sys.executable,
            __file__,
            f"--count={values.count}",
            f"--seed={values.seed}",
            f"--way={way}",
        ]
        said, failed = watch(program, way, values.seed)
        failures += failed
        print(f"  {way:18}  {said}", flush=True)
    return int(failures > 0)


def watch(program: list[str], way: str, seed: int) -> tuple[str, bool]:
    """What became of a process that fuzzes, in words, and whether it failed."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder) / "number"
        at.write_text("0")
        done = subprocess.run([*program, f"--at={at}"], capture_output=True, text=True, errors="replace")
        number = int(at.read_text())
    if done.returncode:
        why = "hung" if "Timeout" in done.stderr else f"ended with code {done.returncode}"
        last = done.stderr.strip().splitlines()[-1:]
        return f"FAILED: {why} at mutant {number}, kept in {_kept(way, seed, number)} {last}", True
    figures = json.loads(done.stdout)
    grown = figures["grown_mb"]
    said = (
        f"{figures['decoded']:6,} decoded, {figures['refused']:6,} refused, {figures['seconds']:5.1f} s, "
        f"{figures['slowest_ms']:5.1f} ms at most, {grown:.0f} MB more memory"
    )
    return (said, False) if grown <= MAX_GROWTH_MB else (f"FAILED: over {MAX_GROWTH_MB} MB: {said}", True)


def _kept(way: str, seed: int, number: int) -> Path:
    kind = WAYS[way][0]
    path = Path(tempfile.gettempdir()) / f"fuzz-{kind}-{seed}-{number}.{kind.lower()}"
    path.write_bytes(mutant(sound(kind), kind, seed, number))
    return path


def fuzz(way: str, count: int, seed: int, at: str) -> dict[str, Any]:
    """The figures of the mutants 0..count-1; any exception but Undecodable comes out.

    Args:
      at: a file that always holds the number of the mutant at hand.
    """
    kind, decoder, decode = WAYS[way]
    files = sound(kind)
    for data in files:
        decode_or_refuse(decode, data)  # libraries are loaded, and do not count as memory
    before_mb, start = _peak_mb(), time.perf_counter()
    slowest_s, decoded = 0.0, 0
    with decoders.only(decoder), open(at, "r+") as note:
        for number in range(count):
            os.pwrite(note.fileno(), b"%9d" % number, 0)
            data = mutant(files, kind, seed, number)
            faulthandler.dump_traceback_later(HANG_S, exit=True)
            began = time.perf_counter()
            decoded += decode_or_refuse(decode, data)
            slowest_s = max(slowest_s, time.perf_counter() - began)
    faulthandler.cancel_dump_traceback_later()
    return {
        "decoded": decoded,
        "refused": count - decoded,
        "seconds": time.perf_counter() - start,
        "slowest_ms": 1000 * slowest_s,
        "grown_mb": _peak_mb() - before_mb,
    }


def decode_or_refuse(decode: Callable, data: bytes) -> bool:
    """Whether it was decoded.

    Raises:
      AssertionError: what came out is no picture and no mask.
    """
    try:
        picture = decode(data, MAX_PIXELS)
    except Undecodable:
        return False
    assert picture.dtype == np.uint8 and 0 < picture.shape[0] * picture.shape[1] <= MAX_PIXELS, picture.shape
    assert picture.shape[2:] == (() if decode is decode_mask else (3,)), picture.shape
    return True


def sound(kind: str) -> list[bytes]:
    """Some files without fault that use what the format has."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8)).resize((32, 24))
    exif = Image.Exif()
    exif[0x0112] = 6
    palette, frames = colour.quantize(16), dict(save_all=True, append_images=[colour.rotate(90)])
    deep = Image.fromarray(rng.integers(0, 65_536, (12, 16), np.uint16))
    forms: dict[str, list[tuple[Image.Image, dict]]] = {
        "JPEG": [
            (colour, dict(exif=exif)),
            (colour, dict(progressive=True, icc_profile=bytes(200))),
            (colour.convert("L"), dict(restart_marker_blocks=2)),
            (colour.convert("CMYK"), {}),
        ],
        "PNG": [
            (colour, dict(exif=exif)),
            (palette, dict(transparency=bytes([0, 128]))),
            (colour.convert("LA"), {}),
            (colour.convert("L"), {}),
            (deep, {}),
            (colour, frames),
        ],
        "WEBP": [
            (colour, dict(exif=exif)),
            (colour, dict(lossless=True)),
            (colour.convert("RGBA"), {}),
            (colour, frames),
        ],
        "BMP": [(colour, {}), (palette, {}), (colour.convert("1"), {}), (colour.convert("RGBA"), {})],
        "TIFF": [
            (colour, dict(compression="tiff_lzw")),
            (colour, dict(compression="jpeg")),
            (colour, dict(compression="tiff_deflate", exif=exif)),
            (colour.convert("1"), dict(compression="group4")),
            (deep, {}),
            (colour.convert("CMYK"), dict(compression="packbits")),
        ],
    }
    files = []
    for image, how in forms[kind]:
        out = io.BytesIO()
        image.save(out, kind, **how)
        files.append(out.getvalue())
    return files


def mutant(files: list[bytes], kind: str, seed: int, number: int) -> bytes:
    """The damaged file of this number."""
    rng = np.random.default_rng((seed, number))
    data = bytearray(files[number % len(files)])
    for _ in range(rng.integers(1, 4)):
        MUTATIONS[rng.integers(len(MUTATIONS))](data, files, rng)
    if kind == "PNG" and rng.random() < 0.9:
        _mend_checksums(data)
    return bytes(data)


def _flip(data: bytearray, files: list[bytes], rng: np.random.Generator) -> None:
    for at in rng.integers(0, len(data), rng.integers(1, 9)) if data else ():
        data[at] ^= 1 << rng.integers(8)


def _edit_header(data: bytearray, files: list[bytes], rng: np.random.Generator) -> None:
    """Numbers that overflow something, where sizes and offsets stand."""
    width = int(rng.choice([1, 2, 4]))
    at = rng.integers(0, min(len(data), rng.choice([64, 1024])) + 1)
    number = (0, 1, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, int(rng.integers(2**32)))[rng.integers(7)]
    data[at : at + width] = (number % 256**width).to_bytes(width, ("little", "big")[rng.integers(2)])


def _cut(data: bytearray, files: list[bytes], rng: np.random.Generator) -> None:
    del data[rng.integers(0, len(data) + 1) :]


def _lose(data: bytearray, files: list[bytes], rng: np.random.Generator) -> None:
    at = rng.integers(0, len(data) + 1)
    del data[at : at + rng.integers(1, 65)]


def _splice(data: bytearray, files: list[bytes], rng: np.random.Generator) -> None:
    """A part of another file over or between what is here; also of the same one, which repeats blocks."""
    other = files[rng.integers(len(files))]
    start, at = rng.integers(0, len(other)), rng.integers(0, len(data) + 1)
    part = other[start : start + rng.integers(1, 513)]
    data[at : at + rng.integers(0, len(part) + 1)] = part


MUTATIONS = (_flip, _flip, _edit_header, _edit_header, _cut, _lose, _splice)


def _mend_checksums(data: bytearray) -> None:
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4


def _peak_mb() -> float:
    """The process's peak of memory until now."""
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    cli.run(main)
