"""Batches: a pure order, exact resume, exact evaluation, and pictures that cannot be decoded."""

import itertools

import numpy as np
import pytest

from vitjax.data import pipeline
from vitjax.data.batches import FEW, batch_of, order
from vitjax.data.decode import Undecodable
from vitjax.data.sources.folder import FolderSource
from vitjax.data.sources.parquet import ParquetSource
from vitjax.errors import UserError


class Greys:
    """Picture i is grey of i, (4 + i % 3) x 6 px; those in `bad` cannot be decoded."""

    def __init__(self, count, bad=()):
        self._count, self._bad = count, frozenset(bad)
        self.class_names = {"label": tuple(str(i) for i in range(count))}

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        if index in self._bad:
            raise Undecodable("bad on purpose")
        boxes = np.full((2, 4), index, np.float64)
        image = np.full((4 + index % 3, 6, 3), index % 256, np.uint8)
        seen = {"boxes": boxes, "box_label": np.zeros(2, np.int32), "caption": "grey", "tags": [0] * (index + 1)}
        return {"image": image, "label": index, **seen}

    def name(self, index):
        return f"grey {index}"

    def __repr__(self):
        return "Greys"


class Stacked(Greys):
    """The same with pictures of one size, given out many at a time."""

    def gather(self, indices):
        assert not self._bad & set(indices.tolist())
        image = np.broadcast_to(
            (indices % 256).astype(np.uint8)[:, None, None, None], (len(indices), 6, 6, 3)
        )
        return {"image": image.copy(), "label": indices.astype(np.int32)}


def train(source, steps, batch_size=8, rows=None, seed=3, start_step=0, workers=0, **how):
    settings = dict(canvas_px=8, crop="device", size_px=4, crop_area=(0.2, 1.0), crop_aspect=(0.75, 1.33))
    with pipeline.train_batches(
        source,
        batch_size=batch_size,
        rows=np.arange(batch_size) if rows is None else rows,
        seed=seed,
        start_step=start_step,
        resize="bicubic",
        workers=workers,
        **{**settings, **how},
    ) as batches:
        return list(itertools.islice(batches, steps))


def evaluate(source, batch_size=8, rows=None, **how):
    rows = np.arange(batch_size) if rows is None else rows
    with pipeline.eval_batches(
        source, batch_size=batch_size, rows=rows, canvas_px=8, workers=0, **how
    ) as batches:
        return list(batches)


def joined(batches, name="index"):
    return np.concatenate([batch[name] for batch in batches])


def assert_same(some, others):
    assert len(some) == len(others)
    for a, b in zip(some, others):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("count", [1, 2, 7, 1000, FEW + 1])
def test_every_record_comes_exactly_once_an_epoch(count):
    records = order(np.arange(3 * count), count, seed=5).reshape(3, count)
    assert (np.sort(records, axis=1) == np.arange(count)).all()


def test_epochs_and_seeds_have_permutations_of_their_own():
    first, second = order(np.arange(2000), 1000, seed=5).reshape(2, 1000)
    other = order(np.arange(1000), 1000, seed=6)
    for a, b in itertools.combinations((first, second, other, np.arange(1000)), 2):
        assert (a == b).mean() < 0.01


def test_neighbours_in_one_epoch_are_no_neighbours_in_the_next():
    first, second = order(np.arange(2000), 1000, seed=5).reshape(2, 1000)
    pairs = {frozenset(p) for p in zip(first[:-1].tolist(), first[1:].tolist())}
    again = sum(frozenset(p) in pairs for p in zip(second[:-1].tolist(), second[1:].tolist()))
    assert again <= 10  # 2 are expected of random orders


def test_a_batch_holds_the_whole_picture_at_the_top_left_with_its_size():
    (batch,) = train(Greys(20), steps=1)
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "image": ((8, 8, 8, 3), "uint8"),
        "size": ((8, 2), "int32"),
        "index": ((8,), "int64"),
        "bad_index": ((8,), "int64"),
        "row": ((8,), "int32"),
        "valid": ((8,), "bool"),
        "label": ((8,), "int32"),
    }
    for image, (height, width), index in zip(batch["image"], batch["size"], batch["index"]):
        assert (height, width) == (4 + index % 3, 6)
        assert (image[:height, :width] == index).all()
        assert not image[height:].any() and not image[:, width:].any()
    assert (batch["label"] == batch["index"]).all() and batch["valid"].all()
    assert (batch["row"] == np.arange(8)).all() and (batch["bad_index"] == -1).all()


def test_the_specification_is_that_of_the_batches():
    source, fields = Greys(20), ("label", "boxes")
    (batch,) = train(source, steps=1, fields=fields)
    spec = pipeline.batch_spec(source, batch_size=8, canvas_px=8, crop="device", size_px=4, fields=fields)
    assert {"box_label", "box_valid"} <= set(spec)
    on_device = {k: (v.shape, v.dtype) for k, v in batch.items() if k not in ("index", "bad_index")}
    assert spec == on_device
    assert spec["boxes"] == ((8, 100, 4), np.float32)


def test_fields_that_are_missing_ragged_or_no_numbers_are_errors():
    with pytest.raises(UserError, match="'colour' is not in Greys; its fields are: box_label, boxes, caption, label"):
        train(Greys(9), 1, fields=("colour",))
    with pytest.raises(UserError, match="'caption' of Greys is not made of numbers"):
        train(Greys(9), 1, fields=("caption",))
    with pytest.raises(UserError, match="'tags' has shape .* must pad"):
        train(Greys(9), 1, fields=("tags",))


@pytest.mark.parametrize("crop", ["device", "host"])
def test_a_resumed_loader_gives_the_tail_of_an_unbroken_one(crop):
    whole = train(Greys(20), steps=7, crop=crop)
    assert_same(train(Greys(20), steps=3, start_step=4, crop=crop), whole[4:])


def test_the_nth_batch_is_the_nth_that_is_not_left_out():
    assert [batch_of(n, ()) for n in range(4)] == [0, 1, 2, 3]
    for left_out in [(0,), (3,), (2, 3, 6), (6, 2, 3), (0, 1, 2), (9,)]:
        kept = [number for number in range(20) if number not in left_out]
        assert [batch_of(n, left_out) for n in range(8)] == kept[:8], left_out


def test_leaving_out_a_batch_changes_none_before_it():
    for n in range(8):
        more = (2, batch_of(n, (2,)))
        assert [batch_of(m, more) for m in range(n)] == [batch_of(m, (2,)) for m in range(n)]


@pytest.mark.parametrize("crop", ["device", "host"])
@pytest.mark.parametrize("start_step", [0, 2, 3])
def test_batches_that_are_left_out_are_passed_over_with_their_crops(crop, start_step):
    whole = train(Greys(20), steps=10, crop=crop)
    wanted = [batch for number, batch in enumerate(whole) if number not in (2, 3, 6)]
    got = train(Greys(20), steps=7 - start_step, crop=crop, start_step=start_step, left_out=(2, 3, 6))
    assert_same(got, wanted[start_step:])


def test_batches_are_equal_in_processes_and_in_threads():
    threads = train(Greys(20), steps=5, start_step=2, crop="host")
    assert_same(train(Greys(20), steps=5, start_step=2, crop="host", workers=2), threads)


@pytest.mark.parametrize("crop", ["device", "host"])
@pytest.mark.parametrize("rows", [[[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 1, 4, 5], [2, 3, 6, 7]]])
def test_the_rows_of_two_hosts_make_the_batch_of_one(crop, rows):
    alone = train(Greys(20), steps=4, crop=crop)
    hosts = [train(Greys(20), steps=4, crop=crop, rows=np.array(r)) for r in rows]
    for whole, *parts in zip(alone, *hosts):
        place = joined(parts, "row")
        for name in whole:
            np.testing.assert_array_equal(joined(parts, name), whole[name][place], err_msg=name)


def test_host_crops_differ_between_epochs_and_between_pictures():
    rng = np.random.default_rng(0)

    class Noise(Greys):
        image = rng.integers(0, 256, (32, 32, 3), np.uint8)

        def __getitem__(self, index):
            return {"image": self.image, "label": index}

    batches = train(Noise(8), steps=2, crop="host")
    crops = joined(batches, "image")
    assert crops.shape == (16, 4, 4, 3) and len({crop.tobytes() for crop in crops}) == 16
    assert (joined(batches, "size") == 4).all()


def test_a_source_of_arrays_gives_the_same_in_one_call_as_record_by_record():
    class Single(Greys):
        def __getitem__(self, index):
            return {"image": np.full((6, 6, 3), index % 256, np.uint8), "label": index}

    for how in (dict(canvas_px=8), dict(canvas_px=6), dict(canvas_px=3)):
        assert_same(train(Stacked(20), steps=3, **how), train(Single(20), steps=3, **how))
    assert_same(evaluate(Stacked(20)), evaluate(Single(20)))


def test_an_undecodable_picture_is_replaced_by_one_far_away_and_named():
    clean, batches = train(Greys(20), steps=5), train(Greys(20, bad=(4, 17, 19)), steps=5)
    replacement = {4: 10, 17: 10, 19: 12}  # steps of 13; 17 would have stood in for 4
    wanted = joined(clean)
    assert joined(batches).tolist() == [replacement.get(i, i) for i in wanted.tolist()]
    assert joined(batches, "bad_index").tolist() == [i if i in replacement else -1 for i in wanted.tolist()]
    assert joined(batches, "valid").all()
    assert (joined(batches, "label") == joined(batches)).all()


def test_a_folder_that_is_broken_as_a_whole_does_not_stop_training():
    batches = train(Greys(400, bad=range(100, 300)), steps=50)
    assert joined(batches, "valid").all() and (joined(batches, "bad_index") >= 100).any()


def test_nothing_but_undecodable_pictures_is_an_error():
    with pytest.raises(UserError, match="64 records,.*cannot be decoded.*bad on purpose"):
        train(Greys(4000, bad=range(1, 4000)), steps=5)
    with pytest.raises(UserError, match="none of 5 records of Greys can be read"):
        train(Greys(5, bad=range(5)), steps=1)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 103])
def test_evaluation_counts_each_record_exactly_once(count):
    batches = evaluate(Greys(count))
    assert len(batches) == -(-count // 8) and all(len(b["index"]) == 8 for b in batches)
    valid = joined(batches, "valid")
    assert joined(batches)[valid].tolist() == list(range(count))
    assert (joined(batches)[~valid] == -1).all() and (joined(batches, "size")[~valid] == 8).all()


def test_every_host_makes_as_many_evaluation_batches():
    hosts = [evaluate(Greys(9), rows=np.array(rows)) for rows in ([0, 1, 2, 3], [4, 5, 6, 7])]
    assert [len(batches) for batches in hosts] == [2, 2]
    seen = [joined(batches)[joined(batches, "valid")] for batches in hosts]
    assert sorted(np.concatenate(seen).tolist()) == list(range(9))


def test_an_undecodable_picture_does_not_count_in_evaluation():
    batches = evaluate(Greys(20, bad=(4, 19)))
    assert joined(batches)[~joined(batches, "valid")][:2].tolist() == [4, 19]
    assert [i for i in joined(batches, "bad_index") if i >= 0] == [4, 19]
    assert joined(batches, "valid").sum() == 18


def test_a_limit_takes_a_fixed_choice_spread_over_the_source():
    picked = [joined(evaluate(Greys(200), limit=30)) for _ in range(2)]
    assert (picked[0] == picked[1]).all()
    chosen = picked[0][picked[0] >= 0]
    assert len(set(chosen.tolist())) == 30 and chosen.min() < 40 and chosen.max() > 160
    assert (joined(evaluate(Greys(9), limit=30)) >= 0).sum() == 9


def test_settings_out_of_range_are_named():
    with pytest.raises(UserError, match="config.data.crop='centre'"):
        train(Greys(9), 1, crop="centre")
    with pytest.raises(UserError, match="config.data.workers=-2"):
        train(Greys(9), 1, workers=-2)


def test_closing_twice_and_early_is_no_error():
    batches = pipeline.eval_batches(Greys(500), batch_size=8, rows=np.arange(8), canvas_px=8, workers=0)
    next(batches)
    batches.close()
    batches.close()


def test_clothing_photos_train_from_their_folder(picture_sets):
    source = FolderSource(str(picture_sets / "clothing"), "train")
    (batch,) = train(source, steps=1, canvas_px=64)
    assert (batch["size"].max(axis=1) == 64).all() and (batch["bad_index"] == -1).all()
    assert all(source.name(i).split("/")[0] == "train" for i in batch["index"])
    assert all(
        source.class_names["label"][label] == source.name(i).split("/")[1]
        for i, label in zip(batch["index"], batch["label"])
    )


def test_an_epoch_of_cifar10_holds_each_training_picture_once(picture_sets):
    source = ParquetSource(str(picture_sets / "cifar10"), "train")
    batches = train(source, steps=50, batch_size=1000, canvas_px=32)
    assert np.sort(joined(batches)).tolist() == list(range(50_000))
    assert np.bincount(joined(batches, "label")).tolist() == [5000] * 10
    assert (joined(batches, "size") == 32).all()
