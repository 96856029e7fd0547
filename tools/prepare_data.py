"""Prepares a picture set for fast training: any source becomes array_record files of smaller pictures.

    python tools/prepare_data.py pictures --out=prepared
    python tools/prepare_data.py pictures --out=prepared --size_px=384 --config.data.label_columns=species
    python -m vitjax.main --config=configs/mae_vitb.py --config.data.path=prepared --workdir=run

Pictures whose short side is above --size_px are brought down to it and stored as JPEG (--quality, 4:2:0); others are
kept byte for byte. Labels, captions, boxes and masks come along, and class names and splits stay what they are. Records
that cannot be used are left out. A run that was stopped goes on with the same command, from the last file that was
finished; other settings need another folder. At the end manifest.json says what the files hold: counts, a hash of all
records, the bad records with their reasons, and the pictures that are held twice, within splits and between them.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from vitjax import check, cli
from vitjax.counting import Counting
from vitjax.data import cache, contents, duplicates, records
from vitjax.data.decode import decode, resize
from vitjax.data.examples import BAD, whole_mask
from vitjax.data.pipeline import labels
from vitjax.data.sources import Source
from vitjax.errors import RunError, UserError
from vitjax.inspect import in_bytes

SETTINGS, MANIFEST = "prepare.json", "manifest.json"
OPTIONS = "group_size:1,uncompressed"  # a record is read alone, and JPEG is compressed already


class Form(NamedTuple):
    """What becomes of a picture."""

    size_px: int
    quality: int
    max_pixels: int


class Shard(NamedTuple):
    """A file to be written, of the records `start` to `stop` of a split."""

    split: str
    file: Path
    start: int
    stop: int

    @property
    def waiting(self) -> Path:
        """The finished file, until all are: half a set must not be taken for one."""
        return self.file.with_name(f".{self.file.name}.done")

    @property
    def facts(self) -> Path:
        """Where is kept what the manifest will say of it."""
        return self.file.with_name(f".{self.file.name}.json")


class Made(NamedTuple):
    """A record as it is stored, or why it cannot be."""

    index: int
    data: bytes = b""
    content: str = ""
    likeness: int = 0
    is_kept: bool = False
    reason: str = ""


def main(argv: Sequence[str]) -> int:
    """Writes what is not written yet, and says what there is."""
    options = cli.parser("prepare_data", __doc__)
    options.prog = "python tools/prepare_data.py"
    options.add_argument("path", nargs="?", metavar="DATA", help="a folder, file, pattern or URL of pictures")
    options.add_argument("--out", required=True, metavar="DIR", help="where the files are written")
    options.add_argument("--size_px", type=int, default=256, help="the short side of large pictures")
    options.add_argument("--quality", type=int, default=90, help="of JPEG, 1 to 100")
    options.add_argument("--shard_records", type=int, default=5000, help="in a file")
    options.add_argument(
        "--split", default="", help="train, validation or test; all that there are by default"
    )
    values, given = cli.parse(options, argv)
    for name, most in (("size_px", 65_500), ("quality", 100), ("shard_records", 10**9)):
        if not 1 <= getattr(values, name) <= most:
            raise UserError(f"--{name}={getattr(values, name)} must be between 1 and {most}")
    data = check.settings(values.path, given)
    opened = contents.open_splits(data, values.split)
    form = Form(values.size_px, values.quality, data.max_pixels)
    settings = form._asdict() | {
        "shard_records": values.shard_records,
        "records": {split: len(source) for split, (source, _) in opened.items()},
        "fields": {split: list(fields) for split, (_, fields) in opened.items()},
        "source": {split: repr(source) for split, (source, _) in opened.items()},
    }
    try:
        manifest = prepare(
            Path(values.out), {split: source for split, (source, _) in opened.items()}, form, settings
        )
    except KeyboardInterrupt:
        raise RunError(f"stopped; the same command goes on from the files that {values.out} holds") from None
    print(text(manifest))
    return 0


def prepare(
    out: Path, sources: Mapping[str, Source], form: Form, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest, once every file is written.

    Raises:
      UserError: the folder holds something else, or files of other settings.
    """
    _claim(out, settings)
    if (out / MANIFEST).exists():
        return json.loads((out / MANIFEST).read_text())
    for part in out.glob(".*.part"):  # of a run that was stopped
        part.unlink()
    shards = [
        shard for split, source in sources.items() for shard in _shards(out, split, len(source), settings)
    ]
    left = [shard for shard in shards if not (shard.file.exists() or shard.waiting.exists())]
    with Counting("prepared", sum(shard.stop - shard.start for shard in left)) as counting:
        done = 0
        for shard in left:
            _write(shard, sources[shard.split], form, lambda n, done=done: counting(done + n))
            done += shard.stop - shard.start
    facts = {
        split: [json.loads(s.facts.read_text()) for s in shards if s.split == split] for split in sources
    }
    manifest = _manifest(facts, sources, settings)
    counts = {split: found["records"] for split, found in manifest["splits"].items()}
    names = {field: names for source in sources.values() for field, names in source.class_names.items()}
    records.write_description(str(out), records.Description(names, _fields(sources, settings), counts))
    for shard in shards:
        if shard.waiting.exists():
            os.replace(shard.waiting, shard.file)
    cache.put(out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    for shard in shards:
        shard.facts.unlink()
    return manifest


def make(source: Source, index: int, form: Form) -> Made:
    """A record in its new form."""
    try:
        record = source[index]
        image, picture = record["image"], decode(record["image"], form.max_pixels)
        small = _smaller(picture, form.size_px)
        is_kept = small is picture
        mask = _mask(record.pop("mask", None), picture.shape[:2], small.shape[:2], form.max_pixels)
    except BAD as error:
        return Made(index, reason=str(error))
    if not is_kept:
        record["image"] = simplejpeg.encode_jpeg(small, form.quality, colorsubsampling="420")
    elif isinstance(image, np.ndarray):
        record["image"] = _png(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if mask is not None:
        record["mask"] = mask
    encoded = records.encode({**record, "name": source.name(index)})
    content, likeness = duplicates.content_hash(image), duplicates.perceptual_hash(picture)
    return Made(index, encoded, content.tobytes().hex(), int(likeness), is_kept)


def _smaller(picture: np.ndarray, size_px: int) -> np.ndarray:
    """The picture with a short side of at most `size_px`."""
    height, width = picture.shape[:2]
    scale = size_px / min(height, width)
    return picture if scale >= 1 else resize(picture, round(height * scale), round(width * scale))


def _mask(mask: Any, whole: tuple[int, int], small: tuple[int, int], max_pixels: int) -> bytes | None:
    """The mask of a picture that was `whole` and is `small`, as PNG.

    Raises:
      Undecodable: it is damaged, or of another size than the picture.
    """
    if mask is None:
        return None
    numbers = whole_mask(mask, whole, max_pixels)
    if isinstance(mask, bytes) and small == whole:
        return mask
    return _png(cv2.resize(numbers, small[::-1], interpolation=cv2.INTER_NEAREST_EXACT))


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def _claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Nothing, if the folder is new, or of the same settings."""
    file = out / SETTINGS
    if not file.exists():
        if out.exists() and any(out.iterdir()):
            raise UserError(f"--out={out} holds other files; give a folder that is new or empty")
        cache.put(file, json.dumps(settings, indent=1).encode())
        return
    before = json.loads(file.read_text())
    other = [name for name in settings if before.get(name) != settings[name]]
    if other:
        name = other[0]
        raise UserError(
            f"--out={out} was begun with {name}={before.get(name)}, and this is {name}={settings[name]}; give another "
            "folder, or remove this one"
        )


def _shards(out: Path, split: str, count: int, settings: Mapping[str, Any]) -> list[Shard]:
    """The files of a split; their names say that they are its."""
    each = settings["shard_records"]
    total = -(-count // each)
    return [
        Shard(split, out / f"{split}-{k:05}-of-{total:05}.array_record", k * each, min(count, (k + 1) * each))
        for k in range(total)
    ]


def _write(shard: Shard, source: Source, form: Form, progress: Callable[[int], None]) -> None:
    """Writes a file: whole, or not under its name.

    Raises:
      RunError: it cannot be written, on a disk that is full for one.
    """
    part = shard.file.with_name(f".{shard.file.name}.part")
    digest, good, bad = hashlib.sha256(), [], []
    writer = ArrayRecordWriter(str(part), OPTIONS)
    made = contents.in_threads(lambda index: make(source, index, form), range(shard.start, shard.stop))
    for done, one in enumerate(made, 1):
        if one.data:
            writer.write(one.data)
            digest.update(hashlib.sha256(one.data).digest())
            good.append(one)
        else:
            bad.append({"index": one.index, "name": source.name(one.index), "reason": one.reason})
        progress(done)
    writer.close()
    if _count(part) != len(good):
        raise RunError(f"{part} could not be written in full; make room, and give the same command again")
    facts = {
        "bad": bad,
        "bytes": part.stat().st_size,
        "kept": sum(one.is_kept for one in good),
        "hash": digest.hexdigest(),
        **{name: [getattr(one, name) for one in good] for name in ("index", "content", "likeness")},
    }
    cache.put(shard.facts, json.dumps(facts).encode())
    os.replace(part, shard.waiting)


def _count(file: Path) -> int:
    """The records of a file, 0 where it is damaged."""
    reader = ArrayRecordReader(str(file))
    count = reader.num_records() if reader.ok() else 0
    reader.close()
    return count


def _manifest(
    facts: Mapping[str, list[dict]], sources: Mapping[str, Source], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What the files hold, from what was kept beside each of them."""
    splits, hashes = {}, {}
    for split, files in facts.items():
        index = np.array([i for f in files for i in f["index"]], np.int64)
        likeness = np.array([bits for f in files for bits in f["likeness"]], np.uint64)
        content = np.frombuffer(
            bytes.fromhex("".join(bits for f in files for bits in f["content"])), np.uint64
        )
        names = sources[split].name
        hashes[split] = duplicates.Hashes(
            content.reshape(-1, 2), likeness, lambda k, index=index, names=names: names(int(index[k]))
        )
        splits[split] = {
            "records": len(index),
            "files": len(files),
            "bytes": sum(f["bytes"] for f in files),
            "kept_as_they_were": sum(f["kept"] for f in files),
            "bad": [record for f in files for record in f["bad"]],
            "hash": hashlib.sha256("".join(f["hash"] for f in files).encode()).hexdigest(),
        }
    return {"settings": dict(settings), "splits": splits, "duplicates": duplicates.held_twice(hashes)}


def _fields(sources: Mapping[str, Source], settings: Mapping[str, Any]) -> list[str]:
    """What a record can have: the labels and fields of all splits."""
    found = dict.fromkeys(["image", "name"])
    for split, source in sources.items():
        found |= dict.fromkeys([*labels(source), *settings["fields"][split]])
    if "boxes" in found:
        found["box_label"] = None
    return list(found)


def text(manifest: Mapping[str, Any]) -> str:
    """The manifest in a few lines."""
    lines = []
    for split, found in manifest["splits"].items():
        kept = f"{found['kept_as_they_were']:,} pictures as they were"
        size = f"{found['records']:,} records in {found['files']:,} files, {in_bytes(found['bytes'])}"
        lines.append(f"{split}: {size}; {kept}; {len(found['bad']):,} bad records left out")
    for title, kinds in manifest["duplicates"].items():
        counts = ", ".join(f"{kinds[kind]['count']:,} {kind}" for kind in kinds)
        lines.append(f"held twice, {title}: {counts}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
