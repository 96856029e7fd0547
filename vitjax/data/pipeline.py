"""From a source to batches: an order that is a pure function of (seed, step), decoded by threads.

The element of the grain dataset is a whole batch, not a record: grain's own cost of some 30 us a record
would take a tenth of a core at the rate at which small models train, and `.batch()` copies each picture
once more. Batch n holds the records at the positions n * B + rows of an endless sequence of shuffled
epochs. So there is no state to save: a resumed run asks for `[step:]`, and each process for its rows.

Threads or processes: simplejpeg, OpenCV and Pillow release Python's lock while they work, so threads use
all cores, and hand their pictures over without a copy. Processes (`workers` > 0) start slowly (about 8 s)
and copy each batch through shared memory; they pay only where a source works long in Python.
"""

import os
import weakref
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
from absl import flags
from jaxtyping import Int

from vitjax.data import tokenize
from vitjax.data.batches import Batch, BatchDataset, EvalDataset, TrainDataset
from vitjax.data.examples import FIELDS, Form, Framing, Reader, Spec, record_spec, refuse_uncropped
from vitjax.data.sources import Source
from vitjax.data.workers import Watched, running, set_up
from vitjax.errors import UserError


class Batches:
    """An iterator of batches that can be closed. Decoding starts at once and runs two batches ahead.

    It raises a RunError if a process that decodes for it dies.
    """

    def __init__(self, dataset: BatchDataset, start: int, workers: int):
        data = dataset[start:].to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=2))
        if workers > 0:
            if not flags.FLAGS.is_parsed():  # in a notebook; grain reads flags of its own
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
            data = data.mp_prefetch(options, worker_init_fn=set_up)
        others = running()
        iterator = iter(data)
        iterator.start_prefetch()
        endless = isinstance(dataset, TrainDataset)
        self._iterator = Watched(iterator, workers, others, endless) if workers > 0 else iterator
        # Also at the program's end, however it ends: grain's own clean-up then comes too late.
        self._finalizer = weakref.finalize(self, _close, self._iterator, dataset)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def close(self) -> None:
        """Ends the threads and processes; may be called twice."""
        self._finalizer()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def train_batches(
    source: Source,
    *,
    batch_size: int,
    rows: Int[np.ndarray, " b"],
    seed: int,
    start_step: int,
    canvas_px: int,
    crop: str,
    size_px: int,
    crop_area: tuple[float, float],
    crop_aspect: tuple[float, float],
    resize: str,
    workers: int,
    fields: tuple[str, ...] | None = None,
    form: Form = Form(),  # noqa: B008
    left_out: tuple[int, ...] = (),
) -> Batches:
    """Batches without end, from the one of step `start_step` on; each epoch is a permutation of its own.

    A record that cannot be decoded is replaced by another that can ('index') and named in 'bad_index'.

    Args:
      batch_size: of the global batch.
      rows: the rows of the global batch that this process wants.
      fields: what of a record travels beside the picture; None: its labels.
      form: the slots of the fields.
      left_out: numbers of batches that are passed over; step n gets batch `batch_of(n, left_out)`.

    Raises:
      UserError: an unknown crop mode or field, or (from the iterator) nothing but undecodable records.
    """
    framing = Framing(
        crop, _edge(crop, canvas_px, size_px), tuple(crop_area), tuple(crop_aspect), resize, seed
    )
    dataset = TrainDataset(
        Reader(source, framing, labels(source) if fields is None else fields, form),
        batch_size=batch_size,
        rows=rows,
        threads=threads(workers),
        seed=seed,
        left_out=tuple(left_out),
    )
    return Batches(dataset, start_step, processes(workers))


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    rows: Int[np.ndarray, " b"],
    canvas_px: int,
    workers: int,
    limit: int = 0,
    fields: tuple[str, ...] | None = None,
    form: Form = Form(),  # noqa: B008
) -> Batches:
    """Batches that hold each record exactly once, in the source's order; all processes make as many.

    The last one is filled up with rows that are not 'valid' ('index' -1). A record that cannot be
    decoded is not 'valid' either, and stands in 'bad_index'. `limit` > 0 takes that many records,
    picked at random but always the same ones.
    """
    dataset = EvalDataset(
        Reader(source, Framing("device", canvas_px), labels(source) if fields is None else fields, form),
        batch_size=batch_size,
        rows=rows,
        threads=threads(workers),
        limit=limit,
    )
    return Batches(dataset, 0, processes(workers))


def batch_spec(
    source: Source,
    *,
    batch_size: int,
    canvas_px: int,
    crop: str,
    size_px: int,
    fields: tuple[str, ...] | None = None,
    form: Form = Form(),  # noqa: B008
) -> Spec:
    """{name: (shape, dtype)} of what goes to the device, with the global batch size."""
    edge, names = _edge(crop, canvas_px, size_px), labels(source) if fields is None else fields
    refuse_uncropped(names, crop)
    spec = {
        "image": ((edge, edge, 3), np.dtype(np.uint8)),
        "size": ((2,), np.dtype(np.int32)),
        "row": ((), np.dtype(np.int32)),
        "valid": ((), np.dtype(bool)),
        **record_spec(source, names, edge, form),
    }
    return {name: ((batch_size, *shape), dtype) for name, (shape, dtype) in spec.items()}


def labels(source: Source) -> tuple[str, ...]:
    """The label fields of a source."""
    return tuple(name for name in source.class_names if name.split("/")[0] == "label")


def fields(data: Any, source: Source) -> tuple[str, ...]:
    """What travels beside the pictures: the labels, and what `config.data.fields` asks for.

    Raises:
      UserError: there is no such field.
    """
    unknown = [name for name in data.fields if name not in FIELDS]
    if unknown:
        raise UserError(f"config.data.fields={tuple(data.fields)}: {unknown[0]!r} is not one of {', '.join(FIELDS)}")
    return (*labels(source), *data.fields)


def form(data: Any) -> Form:
    """The slots of a picture's fields, from `config.data`.

    Raises:
      UserError: a number is too small, or there is no such tokenizer.
    """
    slots: dict[str, Any] = {"max_pixels": data.max_pixels}
    # Read only where they count: a setting without effect is refused.
    if "text" in data.fields:
        slots |= {"tokenizer": tokenize.make(data), "captions": data.captions}
    if "boxes" in data.fields:
        slots["max_boxes"] = data.max_boxes
    for key, value in slots.items():
        if key != "tokenizer" and value < 1:
            raise UserError(f"config.data.{key}={value} must be 1 or more")
    return Form(**slots)


def reader(data: Any, source: Source) -> Reader:
    """Records as `config.data` wants them whole, for those who look at single ones."""
    return Reader(source, Framing("device", canvas_px(data)), fields(data, source), form(data))


def processes(workers: int) -> int:
    """How many processes decode: for -1 none, since threads are faster (see the head of this file).

    Raises:
      UserError: less than -1.
    """
    if workers < -1:
        raise UserError(
            f"config.data.workers={workers} must be -1 (choose), 0 (threads) or a number of processes"
        )
    return max(workers, 0)


def _close(iterator: grain.DatasetIterator | Watched, dataset: BatchDataset) -> None:
    iterator.close()
    dataset.close()


def canvas_px(data: Any) -> int:
    """The side of the square that holds a whole decoded picture, from `config.data`.

    Twice the crop's side by default: an 8% crop of a canvas of the crop's own size would be a few pixels
    blown up.

    Raises:
      UserError: it is smaller than the crop.
    """
    canvas, size = data.canvas_px, data.size_px
    if canvas and canvas < size:
        raise UserError(
            f"config.data.canvas_px={canvas} is smaller than config.data.size_px={size}; "
            f"use at least {size}, or 0 for {2 * size}"
        )
    return canvas or 2 * size


def _edge(crop: str, canvas_px: int, size_px: int) -> int:
    if crop not in ("device", "host"):
        raise UserError(f"config.data.crop={crop!r} must be 'device' or 'host'")
    return size_px if crop == "host" else canvas_px


def threads(workers: int) -> int:
    """Decoding threads of one process: the cores that it may use, shared among the processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, workers))
