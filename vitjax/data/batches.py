"""The grain datasets whose elements are whole batches: which records, decoded into which arrays."""

import math
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Int, UInt8

from vitjax.data.decode import Undecodable, decode, fit, random_crop
from vitjax.data.sources import Source
from vitjax.errors import UserError

Batch = dict[str, np.ndarray]
Spec = dict[str, tuple[tuple[int, ...], np.dtype]]

MAX_FAILURES = 64  # undecodable records in a row that mean 'the data is broken'
BAD = (Undecodable, OSError)


class Framing(NamedTuple):
    """How a decoded picture becomes an array on the host.

    crop 'device': the whole picture, its longer side at most `edge_px`. 'host': a random crop of
    `edge_px` x `edge_px`.
    """

    crop: str
    edge_px: int
    crop_area: tuple[float, float] = (1.0, 1.0)
    crop_aspect: tuple[float, float] = (1.0, 1.0)
    resize: str = "bilinear"
    seed: int = 0

    def __call__(self, picture: UInt8[np.ndarray, "H W 3"], position: int) -> UInt8[np.ndarray, "h w 3"]:
        """The framed picture; its randomness depends on (seed, position) alone, not on who decodes it."""
        if self.crop == "device":
            return fit(picture, self.edge_px)
        rng = np.random.Generator(np.random.Philox(key=[_word(self.seed), position]))
        return random_crop(picture, rng, self.edge_px, self.crop_area, self.crop_aspect, self.resize)


def order(positions: Int[np.ndarray, " B"], count: int, seed: int) -> Int[np.ndarray, " B"]:
    """The records at these positions of the endless sequence of shuffled epochs of `count` records.

    Nothing is stored, however many records there are: grain's shuffle is a cipher on 0..count-1.
    """
    keys = {}
    records = np.empty(len(positions), np.int64)
    for i, position in enumerate(positions.tolist()):
        epoch, place = divmod(position, count)
        if epoch not in keys:
            keys[epoch] = int(np.random.SeedSequence([_word(seed), epoch]).generate_state(1)[0])
        records[i] = grain.experimental.index_shuffle(place, max_index=count - 1, seed=keys[epoch], rounds=4)
    return records


def batch_of(n: int, left_out: Iterable[int]) -> int:
    """The number of the n-th batch (from 0) of those that are not left out: the one that step n + 1 trains on.

    Leaving out one more batch changes nothing about the batches before it, so a run that leaves out the batch
    that it has just met can go on from any of its checkpoints.
    """
    for number in sorted(set(left_out)):
        if number > n:
            break
        n += 1
    return n


class BatchDataset(grain.MapDataset):
    """Element n is this process's part (`rows`) of the n-th global batch."""

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        rows: Int[np.ndarray, " b"],
        framing: Framing,
        spec: Spec,
        threads: int,
    ):
        super().__init__()
        self._source, self._framing, self._spec = source, framing, spec
        self._batch_size, self._rows = batch_size, np.asarray(rows, np.int64)
        self._threads = threads
        self._start_pool()

    def __getitem__(self, n):
        if isinstance(n, slice):
            return self.slice(n)
        return self._batch(self._number(n) * self._batch_size + self._rows)

    def _number(self, n: int) -> int:
        """The batch that element n is."""
        return n

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_pool"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start_pool()

    def _start_pool(self) -> None:
        self._pool = ThreadPoolExecutor(self._threads, "vitjax-decode")

    def _batch(self, positions: np.ndarray) -> Batch:
        raise NotImplementedError

    def _blank(self, index: np.ndarray) -> Batch:
        """A batch of black pictures with labels -1, to be filled where index >= 0."""
        count, edge = len(index), self._framing.edge_px
        batch = {
            "image": np.zeros((count, edge, edge, 3), np.uint8),
            "size": np.full((count, 2), edge, np.int32),
            "index": index,
            "bad_index": np.full(count, -1, np.int64),
            "row": self._rows.astype(np.int32),
            "valid": index >= 0,
        }
        for name, (shape, dtype) in self._spec.items():
            batch[name] = np.full((count, *shape), -1 if shape == () else 0, dtype)
        return batch

    def _fill(self, batch: Batch, put: Callable[[Batch, int], None]) -> None:
        """Calls put(batch, k) for each valid place k, in threads, each a run of neighbours."""
        if self._can_gather():
            self._gather(batch)
            return
        places = np.flatnonzero(batch["valid"]).tolist()
        size = max(1, -(-len(places) // (4 * self._threads)))

        def put_run(start: int) -> None:
            for k in places[start : start + size]:
                put(batch, k)

        for _ in self._pool.map(put_run, range(0, len(places), size)):
            pass  # raises what a thread raised

    def _can_gather(self) -> bool:
        in_memory = hasattr(self._source, "gather") and set(self._spec) <= set(self._source.class_names)
        return in_memory and self._framing.crop == "device"

    def _gather(self, batch: Batch) -> None:
        """Fills the batch from a source of arrays in one call."""
        valid = batch["valid"]
        got = self._source.gather(batch["index"][valid])
        if valid.all() and got["image"].shape == batch["image"].shape:
            batch["image"] = got["image"]
        else:
            for k, picture in zip(np.flatnonzero(valid), got["image"], strict=True):
                _place(batch, k, fit(picture, self._framing.edge_px))
        for name in self._spec:
            batch[name][valid] = got[name]

    def _put(self, batch: Batch, k: int, index: int, position: int) -> None:
        """Decodes record `index` into place k.

        Raises:
          Undecodable, OSError: it cannot be decoded; the batch is as it was.
        """
        record = self._source[index]
        _place(batch, k, self._framing(decode(record["image"]), position))
        for name, (shape, _) in self._spec.items():
            # One row would be repeated to fill many.
            if shape and np.shape(record[name]) != shape:
                raise UserError(
                    f"the field {name!r} has shape {np.shape(record[name])} in {self._source.name(index)} "
                    f"and {shape} in the first record; a source must pad it to one shape"
                )
            batch[name][k] = record[name]


class TrainDataset(BatchDataset):
    """Shuffled epochs without end, but for the batches in `left_out`.

    A record that cannot be decoded is replaced by another that can.
    """

    def __init__(self, source: Source, *, seed: int, left_out: tuple[int, ...] = (), **how):
        super().__init__(source, **how)
        self._seed, self._left_out = seed, left_out

    def _number(self, n: int) -> int:
        return batch_of(n, self._left_out)

    def __len__(self) -> int:
        return sys.maxsize

    def _batch(self, positions: np.ndarray) -> Batch:
        batch = self._blank(order(positions, len(self._source), self._seed))
        self._fill(batch, lambda batch, k: self._put_or_replace(batch, k, int(positions[k])))
        return batch

    def _put_or_replace(self, batch: Batch, k: int, position: int) -> None:
        wanted, count = int(batch["index"][k]), len(self._source)
        for attempt in range(min(MAX_FAILURES, count)):
            index = substitute(wanted, attempt, count)
            try:
                self._put(batch, k, index, position)
            except BAD as error:
                reason = error
                continue
            batch["index"][k] = index
            batch["bad_index"][k] = wanted if attempt else -1
            return
        raise UserError(
            f"{min(MAX_FAILURES, count)} records, {self._source.name(wanted)} and others all over the set, "
            f"cannot be decoded ({self._source.name(index)}: {reason}); "
            "config.data.path seems to hold broken files, or files that are not pictures"
        )


class EvalDataset(BatchDataset):
    """Each record once, in order; a record that cannot be decoded is not 'valid'."""

    def __init__(self, source: Source, *, limit: int, **how):
        super().__init__(source, **how)
        count = len(source)
        # The first records of a folder are all of one class, so a part of them is picked at random.
        self._picked = np.sort(order(np.arange(limit), count, seed=0)) if 0 < limit < count else None
        self._count = count if self._picked is None else limit

    def __len__(self) -> int:
        return -(-self._count // self._batch_size)

    def _batch(self, positions: np.ndarray) -> Batch:
        inside = positions < self._count
        index = np.where(inside, positions, -1)
        if self._picked is not None:
            index[inside] = self._picked[positions[inside]]
        batch = self._blank(index)
        self._fill(batch, self._put_or_mask)
        return batch

    def _put_or_mask(self, batch: Batch, k: int) -> None:
        index = int(batch["index"][k])
        try:
            self._put(batch, k, index, position=0)
        except BAD:
            batch["valid"][k] = False
            batch["bad_index"][k] = index


def substitute(wanted: int, attempt: int, count: int) -> int:
    """The record that is tried in place of `wanted`, which is attempt 0.

    Steps of about 0.618 of the set lead away from a folder or a shard that is broken as a whole, and never
    come back to a record before all were tried.
    """
    step = max(1, round(0.618 * count))
    while math.gcd(step, count) > 1:
        step += 1
    return (wanted + attempt * step) % count


def _place(batch: Batch, k: int, picture: np.ndarray) -> None:
    height, width = picture.shape[:2]
    batch["image"][k, :height, :width] = picture
    batch["size"][k] = height, width


def _word(seed: int) -> int:
    """The seed as 64 bits without a sign."""
    return seed % 2**64
