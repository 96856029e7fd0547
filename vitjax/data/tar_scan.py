"""The samples in one tar file: where the bytes of each lie, found from the headers alone."""

import json
import tarfile
from collections import Counter
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt32

IMAGE, TXT, JSON, CLS = range(4)
_KINDS = dict.fromkeys(("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff"), IMAGE)
_KINDS |= {"txt": TXT, "json": JSON, "cls": CLS}
BLOCK_BYTES = 512  # members begin at multiples of it, so that 32 bits are enough for a tar of 2 TB
MAX_JSON_BYTES = 1 << 20  # of one sample; a longer one is not read
_MAX_CLS_BYTES = 1000
# What reading a damaged header can end in; it is not the store that failed then.
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, RecursionError)


class Scan(NamedTuple):
    """What a tar holds.

    spans: for each sample the first block and the bytes of its picture, .txt, .json and .cls; block 0 stands for none.
    keys: its path up to the first dot of the last part.
    labels: its value in each column, None where there is none.
    passed: what was left out, and how often.
    fault: why not all of the file was read, or ''.
    """

    spans: UInt32[np.ndarray, "n 4 2"]
    keys: list[bytes]
    labels: list[tuple[int | str | None, ...]]
    passed: Counter
    fault: str


def scan(file: BinaryIO, columns: tuple[str, ...]) -> Scan:
    """The samples of a tar in the order of their first members; those of a file that was cut are the whole ones.

    Nothing is extracted. Members are of one sample where their keys are equal, next to each other or not; of two
    pictures the first counts. Hidden files and those of other kinds are no part of it.

    Args:
      columns: of the labels, 'cls' for the file .cls, others in .json.
    """
    samples: dict[str, list[int]] = {}
    passed: Counter = Counter()
    fault = _collect(file, samples, passed)
    pictured = {key: row for key, row in samples.items() if row[2 * IMAGE]}
    passed["samples without a picture"] = len(samples) - len(pictured)
    spans = np.array(list(pictured.values()), np.uint32).reshape(-1, 4, 2)
    keys = [key.encode("utf-8", "surrogateescape") for key in pictured]
    labels = [_labels(file, row, columns) for row in spans.tolist()]
    return Scan(spans, keys, labels, +passed, fault)


def parse(data: bytes) -> dict[str, Any]:
    """The columns of a .json; none where it is no JSON object."""
    try:
        found = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _collect(file: BinaryIO, samples: dict[str, list[int]], passed: Counter) -> str:
    """Fills `samples` and `passed`, and says why it could not go on to the end, or ''."""
    length = file.seek(0, 2)
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # else it remembers all of them
                key, kind = _place(member, passed)
                if member.offset_data + member.size > length:
                    samples.pop(key, None)
                    return f"it ends within {member.name!r}"
                if tar.offset < member.offset_data:
                    return f"the size of {member.name!r} is less than nothing"
                if kind is not None and not (row := samples.setdefault(key, [0] * 8))[2 * kind]:
                    row[2 * kind : 2 * kind + 2] = member.offset_data // BLOCK_BYTES, member.size
            file.seek(tar.offset)
            rest = file.read(BLOCK_BYTES)
        fault = f"there is no header at byte {tar.offset:,}" if rest.strip(b"\0") else ""
    except _DAMAGE as error:
        fault = str(error) or type(error).__name__
    if fault:
        _drop_half(samples)
    return fault


def _drop_half(samples: dict[str, list[int]]) -> None:
    """Takes out the last sample where it lacks what the one before it has: that was lost with the rest of the file."""
    if len(samples) > 1:
        before, last = list(samples)[-2:]
        if any(samples[before][2 * kind] and not samples[last][2 * kind] for kind in range(4)):
            del samples[last]


def _place(member: tarfile.TarInfo, passed: Counter) -> tuple[str, int | None]:
    """The member's key, and its kind where it is a part of a sample."""
    folders, _, base = member.name.rpartition("/")
    stem, _, suffix = base.partition(".")
    key = "/".join([part for part in folders.split("/") if part not in ("", ".")] + [stem])
    kind = _KINDS.get(suffix.lower()) if stem else None
    if member.isdir():
        return key, None
    if not member.isreg() or member.issparse():
        passed["links, devices and the like"] += 1
        return key, None
    if member.name.startswith("/") or ".." in member.name.split("/"):
        passed["names that lead out of the tar"] += 1
        return key, None
    if kind is not None and max(member.size, member.offset_data // BLOCK_BYTES) >= 1 << 32:
        passed["files of 4 GiB or beyond 2 TiB"] += 1
        return key, None
    return key, kind


def _labels(file: BinaryIO, row: list[list[int]], columns: tuple[str, ...]) -> tuple[int | str | None, ...]:
    columns_there = {}
    if row[JSON][0] and row[JSON][1] <= MAX_JSON_BYTES and set(columns) - {"cls"}:
        columns_there = parse(_bytes(file, *row[JSON]))
    if row[CLS][0] and "cls" in columns:
        columns_there["cls"] = _number(_bytes(file, row[CLS][0], min(row[CLS][1], _MAX_CLS_BYTES)))
    return tuple(_class(columns_there.get(column)) for column in columns)


def _bytes(file: BinaryIO, block: int, size: int) -> bytes:
    file.seek(block * BLOCK_BYTES)
    return file.read(size)


def _number(data: bytes) -> int | str:
    text = data.decode("utf-8", "replace").strip()
    try:
        return int(text)
    except ValueError:
        return text


def _class(value: Any) -> int | str | None:
    """The value as a label; None where it is neither a text nor a whole number."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() or None  # JSON may hold half of a surrogate pair
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, int) else None
