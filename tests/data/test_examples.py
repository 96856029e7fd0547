"""Captions, boxes and masks beside the pictures: slots, draws, and what cannot be used."""

import io
import itertools
import re

import numpy as np
import pytest
from PIL import Image

from vitjax.data import captions, pipeline, tokenize
from vitjax.data.examples import OUTSIDE, Form
from vitjax.errors import UserError

FIELDS = ("label", "text", "boxes", "mask")
FORM = Form(tokenize.of_bytes(12), captions=2, max_boxes=3)


class Seen:
    """Picture i is 4 x 8 px, with i captions, i boxes and a mask whose left half is i; every 5th has no mask."""

    class_names = {"label": ("a", "b"), "box_label": tuple("wxyz"), "mask": tuple(map(str, range(20)))}

    def __init__(self, count=12, **changes):
        self._count, self._changes = count, changes

    def __len__(self):
        return self._count

    def __getitem__(self, i):
        mask = np.full((4, 8), 9, np.uint8)
        mask[:, :4] = i
        boxes = np.tile(np.array([0.1, 0.2, 0.3, 0.4], np.float32) + i / 100, (i, 1))
        record = {
            "image": np.full((4, 8, 3), i, np.uint8),
            "label": i % 2,
            "text": tuple(f"{i} {j}" for j in range(i)),
            "boxes": boxes,
            "box_label": np.arange(i, dtype=np.int32) % 4,
            "mask": None if i % 5 == 0 else png(mask),
        }
        return record | {name: change(i) for name, change in self._changes.items()}

    def name(self, i):
        return f"seen {i}"

    def __repr__(self):
        return "Seen"


def png(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()


def train(source, steps=3, start_step=0, workers=0, rows=None, crop="device", fields=FIELDS):
    made = pipeline.train_batches(
        source, batch_size=8, rows=np.arange(8) if rows is None else rows, seed=3, start_step=start_step, canvas_px=6,
        crop=crop, size_px=4, crop_area=(0.2, 1.0), crop_aspect=(0.75, 1.33), resize="bicubic", workers=workers,
        fields=fields, form=FORM,
    )  # fmt: skip
    with made as batches:
        return list(itertools.islice(batches, steps))


def evaluated(source):
    rows = np.arange(12)
    made = pipeline.eval_batches(
        source, batch_size=12, rows=rows, canvas_px=6, workers=0, fields=FIELDS, form=FORM
    )
    with made as batches:
        return next(batches)


def test_what_is_ragged_lies_at_the_beginning_of_its_slots():
    batch = evaluated(Seen())
    assert batch["text_valid"].sum(1).tolist() == [min(i, 2) for i in range(12)]
    assert batch["box_valid"].sum(1).tolist() == [min(i, 3) for i in range(12)]
    assert (batch["box_label"][2] == [0, 1, -1]).all()
    np.testing.assert_allclose(batch["boxes"][1, 0], [0.11, 0.21, 0.31, 0.41], rtol=1e-6)
    assert [FORM.tokenizer.decode(t) for t in batch["text"][7]] == ["7 0", "7 1"]
    assert not batch["text"][0].any() and not batch["boxes"][0].any()


def test_a_mask_lies_on_its_pictures_canvas():
    batch = evaluated(Seen())
    assert batch["size"][3].tolist() == [3, 6]
    assert (batch["mask"][3, :3, :3] == 3).all() and (batch["mask"][3, :3, 3:] == 9).all()
    assert (batch["mask"][3, 3:] == OUTSIDE).all() and (batch["mask"][5] == OUTSIDE).all()


def test_captions_are_drawn_without_doubles_and_anew_in_each_epoch():
    drawn = [set(map(tuple, b["text"][k])) for b in train(Seen(), 40) for k in np.flatnonzero(b["index"] == 9)]
    assert all(len(pair) == 2 for pair in drawn) and len(set(map(frozenset, drawn))) > 5


@pytest.mark.parametrize("workers", [0, 2])
def test_fields_are_those_of_an_unbroken_run_after_a_restart_and_on_any_number_of_processes(workers):
    whole = train(Seen(), 5)
    for got, wanted in zip(train(Seen(), 2, start_step=3, workers=workers), whole[3:], strict=True):
        assert all((got[name] == wanted[name]).all() for name in wanted)
    if workers:
        return
    for processes in (2, 4):
        parts = [train(Seen(), 5, rows=np.arange(8)[i::processes]) for i in range(processes)]
        for step, wanted in enumerate(whole):
            for i in range(processes):
                assert all((parts[i][step][name] == x[i::processes]).all() for name, x in wanted.items())


@pytest.mark.parametrize(
    "field, wrong",
    [
        ("boxes", lambda i: np.full((i, 4), np.nan if i == 7 else 0.5)),
        ("box_label", lambda i: np.zeros(i + (i == 7), np.int32)),
        ("mask", lambda i: png(np.zeros((4, 7 if i == 7 else 8), np.uint8))),
        ("mask", lambda i: b"" if i == 7 else None),
    ],
)
def test_a_field_that_cannot_be_used_makes_a_bad_record(field, wrong):
    batch = evaluated(Seen(**{field: wrong}))
    assert batch["bad_index"].max() == 7 and not batch["valid"][7] and batch["valid"].sum() == 11
    batches = train(Seen(**{field: wrong}), 3)
    assert all(batch["valid"].all() and 7 not in batch["index"] for batch in batches)


def test_a_caption_that_is_no_utf_8_is_used_and_told_of_once(caplog):
    batch = evaluated(Seen(text=lambda i: captions.clean(b"caf\xe9" if i in (4, 6) else "caf\u00e9")))
    assert batch["text_valid"][:, 0].all()
    (said,) = (message for message in caplog.messages if "caption" in message)
    assert re.match("seen [46], and maybe others, has a caption that is no UTF-8", said)


def test_boxes_are_cut_to_the_picture_and_those_without_a_part_or_a_class_left_out(caplog):
    boxes = np.array([[-1, 0.5, 0.5, 2], [0.5, 0.5, 0.5, 1], [0, 1.5, 1, 2], [0, 0, 1, 1], [0, 0, 1, 1]])
    labels = np.array([3, 0, 0, 4, -1])
    batch = evaluated(Seen(boxes=lambda i: boxes, box_label=lambda i: labels))
    assert (batch["box_valid"].sum(1) == 1).all() and (batch["box_label"][:, 0] == 3).all()
    assert (batch["boxes"][:, 0] == [0, 0.5, 0.5, 1]).all()
    (said,) = caplog.messages
    assert "boxes that are empty, outside of their picture or of no class, which are left out" in said


def test_boxes_and_masks_are_refused_where_the_host_crops():
    with pytest.raises(UserError, match=r"fields=\('boxes', 'mask'\) with config.data.crop='host'.*'device'"):
        train(Seen(), crop="host")
    with pytest.raises(UserError, match="use config.data.crop='device'"):
        pipeline.batch_spec(Seen(), batch_size=8, canvas_px=6, crop="host", size_px=4, fields=FIELDS, form=FORM)
    assert "text" in train(Seen(), 1, crop="host", fields=("text",))[0]
