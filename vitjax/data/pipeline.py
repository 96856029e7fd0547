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

from vitjax.data.batches import (
    BAD,
    MAX_FAILURES,
    Batch,
    BatchDataset,
    EvalDataset,
    Framing,
    Spec,
    TrainDataset,
    substitute,
)
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
    left_out: tuple[int, ...] = (),
) -> Batches:
    """Batches without end, from the one of step `start_step` on; each epoch is a permutation of its own.

    A record that cannot be decoded is replaced by another that can ('index') and named in 'bad_index'.

    Args:
      batch_size: of the global batch.
      rows: the rows of the global batch that this process wants.
      fields: what of a record travels beside the picture; None: its labels.
      left_out: numbers of batches that are passed over; step n gets batch `batch_of(n, left_out)`.

    Raises:
      UserError: an unknown crop mode or field, or (from the iterator) nothing but undecodable records.
    """
    framing = Framing(
        crop, _edge(crop, canvas_px, size_px), tuple(crop_area), tuple(crop_aspect), resize, seed
    )
    dataset = TrainDataset(
        source,
        batch_size=batch_size,
        rows=rows,
        framing=framing,
        spec=record_spec(source, fields),
        threads=_threads(workers),
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
) -> Batches:
    """Batches that hold each record exactly once, in the source's order; all processes make as many.

    The last one is filled up with rows that are not 'valid' ('index' -1). A record that cannot be
    decoded is not 'valid' either, and stands in 'bad_index'. `limit` > 0 takes that many records,
    picked at random but always the same ones.
    """
    dataset = EvalDataset(
        source,
        batch_size=batch_size,
        rows=rows,
        framing=Framing("device", canvas_px),
        spec=record_spec(source, fields),
        threads=_threads(workers),
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
) -> Spec:
    """{name: (shape, dtype)} of what goes to the device, with the global batch size."""
    edge = _edge(crop, canvas_px, size_px)
    spec = {
        "image": ((edge, edge, 3), np.dtype(np.uint8)),
        "size": ((2,), np.dtype(np.int32)),
        "row": ((), np.dtype(np.int32)),
        "valid": ((), np.dtype(bool)),
        **record_spec(source, fields),
    }
    return {name: ((batch_size, *shape), dtype) for name, (shape, dtype) in spec.items()}


def record_spec(source: Source, fields: tuple[str, ...] | None) -> Spec:
    """{field: (shape, dtype)} of one record, found by looking at the first that can be read.

    Raises:
      UserError: the source has no such field, or the field is not made of numbers.
    """
    names = tuple(source.class_names) if fields is None else tuple(fields)
    record = _first_readable(source) if names else {}
    spec = {}
    for name in names:
        if name not in record:
            there = ", ".join(sorted(set(record) - {"image"})) or "none"
            raise UserError(f"the field {name!r} is not in {source!r}; its fields are: {there}")
        value = np.asarray(record[name])
        if value.dtype.kind not in "biuf":
            raise UserError(f"the field {name!r} of {source!r} is not made of numbers and cannot be batched")
        spec[name] = (value.shape, _device_dtype(value))
    return spec


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


def _device_dtype(value: np.ndarray) -> np.dtype:
    """Float32 and, for numbers alone, int32; arrays of whole numbers (masks) keep their small type."""
    if value.dtype.kind == "f":
        return np.dtype(np.float32)
    if value.ndim == 0 or value.dtype == np.int64:
        return np.dtype(np.int32)
    return value.dtype


def _first_readable(source: Source) -> dict:
    tried = min(MAX_FAILURES, len(source))
    for attempt in range(tried):
        try:
            return source[substitute(0, attempt, len(source))]
        except BAD:
            continue
    raise UserError(f"none of {tried} records of {source!r} can be read")


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


def _threads(workers: int) -> int:
    """Decoding threads of one process: the cores that it may use, shared among the processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, workers))
