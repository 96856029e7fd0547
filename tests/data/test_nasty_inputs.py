"""What pictures in the wild bring along: each has its rule, nothing hangs, and nothing is written."""

import contextlib
import io
import itertools
import json
import os
import struct
import tarfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from vitjax.config import base_config
from vitjax.data import captions, pipeline, records, sources
from vitjax.data.bad_records import BadRecords, listed
from vitjax.data.examples import BAD
from vitjax.errors import UserError


def encoded(height, width, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).save(file, kind)
    return file.getvalue()


def bomb():
    """A PNG of a few bytes that says it is 65,000 x 65,000."""
    parts = {b"IHDR": struct.pack(">IIBBBBB", 65_000, 65_000, 8, 2, 0, 0, 0), b"IDAT": b"", b"IEND": b""}
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def with_damaged_exif(jpeg):
    body = b"Exif\0\0II*\0\xff\xff\xff\x7f"
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


JPEG, PNG = encoded(40, 30, "JPEG"), encoded(4, 6)
USED = {
    "1 x 1.png": encoded(1, 1),
    "1 x 5000.png": encoded(1, 5000),
    "5000 x 1.jpg": encoded(5000, 1, "JPEG"),
    "damaged exif.jpg": with_damaged_exif(JPEG),
    "a PNG called.jpg": PNG,
    " spaces and\na line.png": PNG,
    "ü" * 125 + "x.png": PNG,  # 255 bytes
    "UPPER.JPEG": JPEG,
}
REASONS = {
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "remature end"),
    "truncated.png": (PNG[: len(PNG) // 2], "truncated"),
    "empty.webp": (b"", "the file is empty"),
    "a page.jpg": (b"<html>404</html>", "begins with b'<html>"),
    "bomb.png": (bomb(), "65000 x 65000 pixels are more than the 178,956,970 allowed"),
    "gone.png": (PNG, "cannot be read: No such file"),
}


@pytest.fixture
def folder(tmp_path):
    """A folder of all that there is, below what a program that is led out of it would find."""
    root = tmp_path / "set"
    root.mkdir()
    for name, data in USED.items():
        (root / name).write_bytes(data)
    for name, (data, _) in REASONS.items():
        (root / name).write_bytes(data)
    os.mkfifo(root / "pipe.png")
    os.mkfifo(root / "UPPER.txt")
    (root / "up").symlink_to(root)
    (root / "dangling.png").symlink_to(root / "nowhere.png")
    return root


def settings(path, **changes):
    data = base_config().data
    data.update(dict(path=str(path), size_px=8, text_length=16, cache_dir=str(path.parent / "cache")) | changes)
    return data


def seen(path):
    """All files below, and how long they are."""
    return {(p, p.lstat().st_size) for p in path.rglob("*")}


def evaluated(data, source):
    """All records as one batch."""
    made = pipeline.eval_batches(
        source, batch_size=len(source), rows=np.arange(len(source)), canvas_px=16, workers=0,
        fields=pipeline.fields(data, source), form=pipeline.form(data),
    )  # fmt: skip
    with made as batches:
        return next(batches)


def test_what_can_be_used_is_and_what_cannot_is_listed_with_its_reason(folder, tmp_path):
    data = settings(folder)
    source = sources.open_source(data, "train")
    (folder / "gone.png").unlink()
    batch = evaluated(data, source)
    names = [source.name(i) for i in range(len(source))]
    assert {name for name, valid in zip(names, batch["valid"]) if valid} == set(USED)
    assert {names[i] for i in batch["bad_index"] if i >= 0} == set(REASONS)
    sizes = {names[i]: tuple(size) for i, size in zip(batch["index"], batch["size"].tolist())}
    assert sizes["1 x 1.png"] == (1, 1) and sizes["1 x 5000.png"] == (1, 16) and sizes["5000 x 1.jpg"] == (16, 1)
    path = tmp_path / "run" / "bad_records.jsonl"
    BadRecords(path, source, pipeline.reader(data, source)).add(batch["bad_index"])
    for record in listed(path):
        assert REASONS[record["name"]][1] in record["reason"], record


@pytest.mark.parametrize("crop", ["device", "host"])
def test_training_goes_on_with_what_can_be_used_and_writes_nothing(folder, crop):
    before = seen(folder.parent)
    source = sources.open_source(settings(folder), "train")
    made = pipeline.train_batches(
        source, batch_size=len(source), rows=np.arange(len(source)), seed=0, start_step=0, canvas_px=16, crop=crop,
        size_px=8, crop_area=(0.2, 1.0), crop_aspect=(0.75, 1.33), resize="bicubic", workers=0,
    )  # fmt: skip
    with made as batches:
        few = list(itertools.islice(batches, 3))
    assert all(batch["valid"].all() for batch in few)
    assert {source.name(i) for batch in few for i in batch["index"]} == {*USED, "gone.png"}
    assert seen(folder.parent) == before


def write_folder(root, pictures, texts):
    for i, (picture, text) in enumerate(zip(pictures, texts)):
        (root / f"{i}.png").write_bytes(picture)
        (root / f"{i}.txt").write_bytes(text)


def write_parquet(root, pictures, texts):
    held = pa.array(texts, pa.binary())
    said = pa.Array.from_buffers(pa.string(), len(held), held.buffers())  # Arrow does not look whether it is UTF-8
    pq.write_table(pa.table({"image": pictures, "caption": said}), root / "0.parquet")


def write_webdataset(root, pictures, texts):
    with tarfile.open(root / "0.tar", "w") as tar:
        for i, parts in enumerate(zip(pictures, texts)):
            for suffix, data in zip(("png", "txt"), parts):
                member = tarfile.TarInfo(f"{i}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_records(root, raw):
    writer = ArrayRecordWriter(str(root / "0.array_record"), "group_size:1,uncompressed")
    for data in raw:
        writer.write(data)
    writer.close()


def write_array_record(root, pictures, texts):
    said = (text.decode("utf-8", "surrogateescape") for text in texts)
    write_records(root, [records.encode({"image": p, "text": [t]}) for p, t in zip(pictures, said)])


def write_examples(root, pictures, texts):
    raw = []
    for parts in zip(pictures, texts):
        made = tf_example_pb2.Example()
        for name, data in zip(("image", "caption"), parts):
            made.features.feature[name].bytes_list.value.append(data)
        raw.append(made.SerializeToString())
    write_records(root, raw)


def write_table(root, pictures, texts):
    (root / "img").mkdir()
    for i, picture in enumerate(pictures):
        (root / "img" / f"{i}.png").write_bytes(picture)
    rows = [b"path,caption", *(b"img/%d.png,%b" % (i, text) for i, text in enumerate(texts))]
    (root / "0.csv").write_bytes(b"\n".join(rows))


def write_coco(root, pictures, texts):
    for folder in ("annotations", "images"):
        (root / folder).mkdir()
    for i, picture in enumerate(pictures):
        (root / "images" / f"{i}.png").write_bytes(picture)
    images = [dict(id=i, file_name=f"{i}.png") for i in range(len(pictures))]
    said = [dict(image_id=i, caption=text.decode("utf-8", "surrogateescape")) for i, text in enumerate(texts)]
    (root / "annotations" / "captions_train.json").write_text(json.dumps(dict(images=images, annotations=said)))


WRITERS = [
    write_folder, write_parquet, write_webdataset, write_array_record, write_examples, write_table, write_coco,
]  # fmt: skip


def described(root, write, **changes):
    """The settings of what was written; 'auto' would take the folder of pictures beside a list."""
    return settings(root, source="table" if write is write_table else "auto", **changes)


@pytest.mark.parametrize("write", WRITERS)
def test_every_source_has_captions_that_are_no_utf8_empty_or_endless(tmp_path, write):
    write(tmp_path, [PNG] * 4, [b"a cat", b"caf\xe9", b"", b"x" * 1_000_000])
    data = described(tmp_path, write, fields=("text",))
    source = sources.open_source(data, "train")
    first, invalid, empty, endless = (source[i]["text"] for i in range(4))
    assert first == ("a cat",) and empty == () and endless == ("x" * captions.MAX_CHARACTERS,)
    assert invalid in (("caf\ufffd",), ("caf?",))
    assert evaluated(data, source)["text_valid"][:, 0].tolist() == [True, True, False, True]


@pytest.mark.parametrize("write", WRITERS)
def test_every_source_leaves_out_a_picture_that_is_none(tmp_path, write):
    write(tmp_path, [PNG, PNG[:40], b"<html>", b"", PNG], [b"a"] * 5)
    data = described(tmp_path, write)
    batch = evaluated(data, sources.open_source(data, "train"))
    assert batch["valid"].tolist() == [True, False, False, False, True]


# pyarrow decodes the rows that it leaves out, and says where that fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("write", WRITERS[1:])
def test_a_damaged_container_is_an_error_that_names_it_or_has_bad_records(tmp_path, write):
    write(tmp_path, [encoded(3, 4)] * 6, [b"a cat"] * 6)
    data = described(tmp_path, write, fields=("text",))
    (file,) = [path for path in tmp_path.rglob("*.*") if path.suffix != ".png"]
    whole, rng, sound = file.read_bytes(), np.random.default_rng(0), 0
    # The end of a parquet file describes it, and pyarrow ends the process on some descriptions.
    stop = whole.rindex(b"PAR1") - int.from_bytes(whole[-8:-4], "little") - 4 if write is write_parquet else len(whole)
    for _ in range(100):
        damaged = bytearray(whole)
        for place in rng.integers(stop, size=3):
            damaged[place] = rng.integers(256)
        file.write_bytes(damaged)
        try:
            source = sources.open_source(data, "train")
        except UserError as error:
            assert str(tmp_path) in str(error)
            continue
        for index in range(len(source)):
            with contextlib.suppress(*BAD):
                source[index]
                sound += 1
    assert sound > 0
