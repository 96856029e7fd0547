"""Mixtures: weights over every stretch, labels by name, and one order."""

import itertools
from types import SimpleNamespace

import ml_collections
import numpy as np
import pytest
from PIL import Image

from vitjax.config import base_config, mix_part
from vitjax.data import pipeline, sources
from vitjax.data.batches import TrainDataset
from vitjax.data.decode import Undecodable
from vitjax.data.examples import Form, Framing, Reader
from vitjax.data.sources.mix import MixSource
from vitjax.data.tokenize import of_bytes
from vitjax.errors import UserError


class Part:
    def __init__(self, count, classes=(), **fields):
        self._count, self._fields = count, fields
        self.class_names = {"label": classes} if classes else {}

    def __len__(self):
        return self._count

    def __getitem__(self, i):
        label = {"label": i % len(self.class_names["label"])} if self.class_names else {}
        return {"image": np.full((2, 2, 3), i, np.uint8), **label, **self._fields}

    def name(self, i):
        return f"picture {i}"


def mixed(*weights, counts=(7, 50, 20), **how):
    parts = {f"part{i}": Part(count) for i, (count, _) in enumerate(zip(counts, weights))}
    return MixSource(parts, weights, **how)


def parts_of(mix, positions, seed=0):
    return np.searchsorted(mix._starts, mix.order(np.asarray(positions), seed), side="right") - 1


@pytest.mark.parametrize("weights", [(1.0, 1.0), (5.0, 1.0, 2.0), (0.001, 1.0), (3.0,)])
def test_the_weights_hold_over_every_stretch(weights):
    mix, shares = mixed(*weights), np.asarray(weights) / sum(weights)
    which = parts_of(mix, np.arange(4000))
    for number, share in enumerate(shares):
        taken = np.cumsum([0, *(which == number)])
        for length in (1, 10, 333, 2000):
            got = taken[length:] - taken[:-length]
            assert np.abs(got - share * length).max() <= len(weights)


def test_each_part_goes_through_epochs_of_its_own():
    mix = mixed(1.0, 1.0, counts=(4, 6))
    records = mix.order(np.arange(2000), 1)
    first = records[records < 4]
    assert all(sorted(first[i : i + 4]) == [0, 1, 2, 3] for i in range(0, 900, 4))
    second = records[records >= 4]
    assert all(sorted(second[i : i + 6]) == [4, 5, 6, 7, 8, 9] for i in range(0, 900, 6))
    assert len({tuple(first[i : i + 4]) for i in range(0, 400, 4)}) > 10


def test_the_order_is_a_function_of_seed_and_position_alone():
    mix = mixed(1.0, 3.0, 2.0)
    whole = mix.order(np.arange(10**9, 10**9 + 64), 5)
    assert (mix.order(np.arange(10**9, 10**9 + 64)[::-3], 5) == whole[::-3]).all()
    assert (mix.order(np.arange(10**9, 10**9 + 64), 6) != whole).any()


def test_a_label_is_a_name_wherever_it_comes_from():
    mix = MixSource({"a": Part(2, ("cat", "dog")), "b": Part(2, ("dog", "emu")), "c": Part(1)}, (1, 1, 1))
    assert mix.class_names == {"label": ("cat", "dog", "emu")}
    assert [mix[i]["label"] for i in range(5)] == [0, 1, 1, 2, -1]
    assert mix.name(3) == "b: picture 1"


def test_a_part_without_a_field_has_it_as_unknown():
    mix = MixSource({"told": Part(1, text=("a cat",)), "mute": Part(1)}, (1, 1), fields=("text", "boxes"))
    assert mix[0]["text"] == ("a cat",) and mix[1]["text"] == () and mix[1]["boxes"].shape == (0, 4)


def test_a_record_that_cannot_be_used_is_replaced_from_its_own_part():
    class Broken(Part):
        def __getitem__(self, i):
            if i % 2:
                raise Undecodable("bad on purpose")
            return super().__getitem__(i)

    mix = MixSource({"good": Part(10), "broken": Broken(10)}, (1, 1))
    data = TrainDataset(Reader(mix, Framing("device", 2), ()), seed=0, batch_size=40, rows=np.arange(40), threads=1)
    batch = data[0]
    assert (batch["index"] >= 10).sum() == 20 and (batch["bad_index"] >= 0).sum() == 10
    data.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mixture_that_is_cut_goes_on_with_the_same_samples_on_any_number_of_processes(workers):
    captions = {"text": ("one", "two", "three")}
    mix = MixSource({"a": Part(7, ("x", "y"), **captions), "b": Part(30)}, (2.0, 1.0), fields=("text",))

    def train(start_step, rows, workers=0):
        made = pipeline.train_batches(
            mix, batch_size=8, rows=rows, seed=3, start_step=start_step, canvas_px=2, crop="device", size_px=2,
            crop_area=(0.2, 1.0), crop_aspect=(0.75, 1.33), resize="bicubic", workers=workers,
            fields=("label", "text"), form=Form(of_bytes(8)),
        )  # fmt: skip
        with made as batches:
            return list(itertools.islice(batches, 8 - start_step))

    whole = train(0, np.arange(8))
    drawn = np.concatenate([batch["text"][batch["text_valid"].any(1)] for batch in whole])
    assert {of_bytes(8).decode(text[0]) for text in drawn} == {"one", "two", "three"}
    for processes in (1, 2, 4) if workers == 0 else (1,):
        for i in range(processes):
            rows = np.arange(8)[i::processes]
            for got, wanted in zip(train(3, rows, workers), whole[3:], strict=True):
                assert all((got[name] == x[rows]).all() for name, x in wanted.items())


def test_a_config_names_the_parts(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    data = base_config().data
    data.mix = ml_collections.ConfigDict(
        dict(one=mix_part(path=str(tmp_path / "one"), weight=3.0), two=mix_part(path=str(tmp_path / "two")))
    )
    mix = sources.open_source(data, "train")
    assert len(mix) == 2 and repr(mix) == "a mix of one 75%, two 25%"
    data.mix.two.path = str(tmp_path / "three")
    with pytest.raises(UserError, match=r"config\.data\.mix\.two: .*three does not exist"):
        sources.open_source(data, "train")


@pytest.mark.parametrize(
    "mix, message",
    [
        ({}, "config.data.mix is empty"),
        ({"a": mix_part(weight=0.0)}, r"mix\.a\.weight=0\.0 must be above 0"),
        ({"a": mix_part(source="mix")}, r"mix\.a\.source='mix'"),
    ],
)
def test_what_is_no_mixture_is_refused(mix, message):
    with pytest.raises(UserError, match=message):
        sources.open_source(SimpleNamespace(source="mix", path="", mix=mix, fields=(), builtin=""), "train")
