"""Each kind of source, and a mix of four, cut in mid-epoch: what comes then is what would have come."""

import csv
import io
import itertools
import json
import struct
import tarfile

import ml_collections
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from vitjax.config import base_config, mix_part
from vitjax.data import pipeline, records, sources

COUNT, HEIGHT, WIDTH = 12, 12, 16
BATCH_SIZE, CUT, STEPS = 8, 2, 6  # 16 pictures are an epoch and a third of the next
CLASSES = ("cat", "dog")
BOXES_OR_MASK = {"boxes", "mask"}
EMPTY = {"label": -1, "text": 0, "boxes": 0, "mask": 255}

# What of `config.data` each kind needs beside its path, which is its name.
KINDS = {
    "folder": dict(fields=("text",)),
    "parquet": dict(fields=("text",)),
    "webdataset": dict(fields=("text",), text_columns=("first", "second")),
    "array_record": dict(fields=("text", "boxes", "mask")),
    "tfds": dict(fields=("text", "boxes"), tfds="dozen", text_columns=("first", "second")),
    "table": dict(fields=("text",), text_columns=("first", "second")),
    "idx": dict(),
    "coco": dict(fields=("text", "boxes")),
    "masks": dict(fields=("mask",)),
    "builtin": dict(fields=("text", "boxes", "mask"), builtin="scenes", train_examples=COUNT, size_px=16),
    "mix": dict(fields=("text", "boxes", "mask")),
}
PARTS = {"array_record": 1.0, "coco": 2.0, "masks": 0.5, "webdataset": 1.5}  # of the mix, with their weights


def label(i):
    return CLASSES[i % 2]


def captions(i):
    return [f"{label(i)} {i}", f"number {i}"]


def box(i):
    """(x, y, width, height) in pixels."""
    return [i % 5, i % 3, 4 + i % 7, 5]


def box_shares(i):
    x, y, width, height = box(i)
    return [y / HEIGHT, x / WIDTH, (y + height) / HEIGHT, (x + width) / WIDTH]


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def picture(i):
    return png(np.random.default_rng(i).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))


def mask(i):
    return png(np.full((HEIGHT, WIDTH), i, np.uint8))


def write_folder(root):
    for i in range(COUNT):
        (root / label(i)).mkdir(exist_ok=True)
        (root / label(i) / f"{i}.png").write_bytes(picture(i))
        (root / label(i) / f"{i}.txt").write_text("\n".join(captions(i)))


def write_parquet(root):
    each = range(COUNT)
    columns = {"image": map(picture, each), "label": map(label, each), "caption": map(captions, each)}
    table = pa.table({name: list(values) for name, values in columns.items()})
    pq.write_table(table, root / "train.parquet", row_group_size=5)


def write_webdataset(root):
    for shard in range(2):
        with tarfile.open(root / f"{shard}.tar", "w") as tar:
            for i in range(shard * COUNT // 2, (shard + 1) * COUNT // 2):
                said = json.dumps(dict(zip(("first", "second"), captions(i))))
                for suffix, data in (("png", picture(i)), ("json", said.encode()), ("cls", label(i).encode())):
                    member = tarfile.TarInfo(f"{i}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def write_array_record(root):
    writer = ArrayRecordWriter(str(root / "train.array_record"), "group_size:1,uncompressed")
    for i in range(COUNT):
        record = {"image": picture(i), "label": i % 2, "text": captions(i), "mask": mask(i)}
        writer.write(records.encode(record | {"boxes": [box_shares(i)], "box_label": [i % 2]}))
    writer.close()
    names = {"label": CLASSES, "box_label": CLASSES}
    fields = ("image", "label", "text", "mask", "boxes", "box_label")
    records.write_description(str(root), records.Description(names, fields, {"train": COUNT}))


class Dozen(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        f = tfds.features
        kinds = f.ClassLabel(names=CLASSES)
        objects = f.Sequence({"bbox": f.BBoxFeature(), "label": kinds})
        features = dict(image=f.Image(), label=kinds, first=f.Text(), second=f.Text(), objects=objects)
        return tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict(features))

    def _split_generators(self, _):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(COUNT):
            there = {"bbox": tfds.features.BBox(*box_shares(i)), "label": label(i)}
            said = dict(zip(("first", "second"), captions(i)))
            yield i, {"image": picture(i), "label": label(i), "objects": [there], **said}


def write_tfds(root):
    Dozen(data_dir=str(root), file_format="array_record").download_and_prepare()


def write_table(root):
    with open(root / "train.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label", "first", "second"))
        rows.writerows((f"../folder/{label(i)}/{i}.png", label(i), *captions(i)) for i in range(COUNT))


def write_idx(root):
    greys = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8), np.uint8)
    for name, array in (("images-idx3", greys), ("labels-idx1", np.arange(COUNT, dtype=np.uint8))):
        head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (root / f"train-{name}-ubyte").write_bytes(head + array.tobytes())


def write_coco(root):
    images = [dict(id=i, file_name=f"{i}.png", width=WIDTH, height=HEIGHT) for i in range(COUNT)]
    boxes = [dict(image_id=i, category_id=i % 2, bbox=box(i)) for i in range(COUNT)]
    said = [dict(image_id=i, caption=caption) for i in range(COUNT) for caption in captions(i)]
    for folder in ("annotations", "images"):
        (root / folder).mkdir()
    for i in range(COUNT):
        (root / "images" / f"{i}.png").write_bytes(picture(i))
    categories = [dict(id=number, name=name) for number, name in enumerate(CLASSES)]
    for kind, annotations in (("instances", boxes), ("captions", said)):
        whole = dict(images=images, annotations=annotations, categories=categories)
        (root / "annotations" / f"{kind}_train.json").write_text(json.dumps(whole))


def write_masks(root):
    for folder, content in (("images", picture), ("masks", mask)):
        (root / folder).mkdir()
        for i in range(COUNT):
            (root / folder / f"{i}.png").write_bytes(content(i))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The folder that holds a dozen pictures in each form, under the name of the kind."""
    root = tmp_path_factory.mktemp("sets")
    for write in (
        write_folder, write_parquet, write_webdataset, write_array_record, write_tfds, write_table, write_idx,
        write_coco, write_masks,
    ):  # fmt: skip
        place = root / write.__name__.removeprefix("write_")
        place.mkdir()
        write(place)
    return root


def described(sets, kind):
    """The `config.data` of the set."""
    data = base_config().data
    data.update(dict(size_px=16, text_length=16, max_boxes=4, cache_dir=str(sets / "cache")) | KINDS[kind])
    if kind == "mix":
        parts = {
            name: mix_part(path=str(sets / name), weight=weight, **KINDS[name]) for name, weight in PARTS.items()
        }
        data.mix = ml_collections.ConfigDict(parts)
    elif not data.builtin:
        data.path = str(sets / kind)
    return data


def batches(data, start_step, rows, workers=0):
    """The batches from this step to the last, of a loader that opens the set itself."""
    source = sources.open_source(data, "train")
    fields = pipeline.fields(data, source)
    crop = "device" if BOXES_OR_MASK & set(fields) else "host"
    made = pipeline.train_batches(
        source, batch_size=BATCH_SIZE, rows=rows, seed=3, start_step=start_step, canvas_px=16, crop=crop, size_px=8,
        crop_area=(0.2, 1.0), crop_aspect=(0.75, 1.33), resize="bicubic", workers=workers, fields=fields,
        form=pipeline.form(data),
    )  # fmt: skip
    with made as loader:
        return list(itertools.islice(loader, STEPS - start_step))


def assert_part(some, whole, rows):
    assert len(some) == len(whole)
    for got, wanted in zip(some, whole):
        assert got.keys() == wanted.keys()
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name][rows], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_is_cut_in_mid_epoch_goes_on_with_the_same_samples_on_any_number_of_processes(sets, kind):
    data = described(sets, kind)
    whole = batches(data, 0, np.arange(BATCH_SIZE))
    for processes in (1, 2, 4):
        for process in range(processes):
            rows = np.arange(BATCH_SIZE)[process::processes]
            assert_part(batches(data, CUT, rows), whole[CUT:], rows)


@pytest.mark.parametrize("kind", ["parquet", "mix"])
def test_worker_processes_go_on_where_threads_were_cut(sets, kind):
    data, rows = described(sets, kind), np.arange(BATCH_SIZE)
    assert_part(batches(data, CUT, rows, workers=2), batches(data, 0, rows)[CUT:], rows)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_compared_has_every_field_and_no_two_batches_alike(sets, kind):
    """Else equality would say nothing."""
    data = described(sets, kind)
    whole = batches(data, 0, np.arange(BATCH_SIZE))
    together = {name: np.concatenate([batch[name] for batch in whole]) for name in whole[0]}
    assert (together["bad_index"] == -1).all() and together["valid"].all()
    for field in data.fields:
        assert (together[field] != EMPTY[field]).any(), field
    for name in {"index", "image", *data.fields}:
        assert len({batch[name].tobytes() for batch in whole}) == STEPS, name
