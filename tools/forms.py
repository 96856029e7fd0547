"""The pictures of a folder in the form of each source that there is."""

import csv
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from array_record.python.array_record_module import ArrayRecordWriter

from vitjax.data import records
from vitjax.data.decode import decode, resize
from vitjax.errors import UserError

SHORT_PX, QUALITY = 256, 90  # of prepared pictures


def files(folder: str | Path) -> list[Path]:
    """The JPEG files below a folder, in the order of their names.

    Raises:
      UserError: there are none.
    """
    found = sorted(p for p in Path(folder).expanduser().rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise UserError(f"--path={folder}: no JPEG files in this folder or below it")
    return found


def read(folder: str | Path) -> list[bytes]:
    return [path.read_bytes() for path in files(folder)]


def write(folder: str | Path, out: Path) -> dict[str, Path]:
    """{form: where it lies}; 'folder' is what was given, and 'prepared' are the smaller pictures."""
    paths = {"folder": Path(folder).expanduser().resolve(), "table": _write_table(files(folder), out / "table")}
    pictures = read(folder)
    for name, write_form in FORMS.items():
        paths[name] = write_form(pictures, out / name)
    small = [prepared(data) for data in pictures]
    for name in ("array_record", "webdataset"):
        paths[f"prepared, {name}"] = FORMS[name](small, out / f"prepared-{name}")
    return paths


def prepared(data: bytes) -> bytes:
    """The picture at a short side of SHORT_PX, as JPEG again; smaller ones stay as they are."""
    picture = decode(data)
    height, width = picture.shape[:2]
    scale = SHORT_PX / min(height, width)
    if scale >= 1:
        return data
    small = resize(picture, round(height * scale), round(width * scale))
    return simplejpeg.encode_jpeg(small, QUALITY, colorsubsampling="420")


def _write_table(found: list[Path], out: Path) -> Path:
    out.mkdir()
    with open(out / "train.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path"], *([path.resolve()] for path in found)])
    return out


def _write_parquet(pictures: list[bytes], out: Path) -> Path:
    out.mkdir()
    pq.write_table(pa.table({"image": pictures}), out / "train.parquet", row_group_size=100)
    return out


def _write_tar(pictures: list[bytes], out: Path) -> Path:
    out.mkdir()
    with tarfile.open(out / "train-000000.tar", "w") as tar:
        for number, data in enumerate(pictures):
            member = tarfile.TarInfo(f"{number:09}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out


def _write_array_record(pictures: list[bytes], out: Path) -> Path:
    out.mkdir()
    writer = ArrayRecordWriter(str(out / "train.array_record"), "group_size:1,uncompressed")
    for data in pictures:
        writer.write(records.encode({"image": data}))
    writer.close()
    return out


FORMS: dict[str, Callable[[list[bytes], Path], Path]] = {
    "parquet": _write_parquet,
    "webdataset": _write_tar,
    "array_record": _write_array_record,
}
