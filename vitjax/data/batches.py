"""The grain datasets whose elements are whole batches: which records, decoded into which arrays."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from vitjax.data.decode import fit
from vitjax.data.examples import BAD, BLANK, MAX_FAILURES, Reader, substitute, word
from vitjax.errors import UserError

Batch = dict[str, np.ndarray]

FEW = 10_000  # records


def order(positions: Int[np.ndarray, " B"], count: int, seed: int) -> Int[np.ndarray, " B"]:
    """The records at these positions of the endless sequence of shuffled epochs of `count` records.

    Nothing is stored, however many records there are: grain's shuffle is a cipher on 0..count-1. It is made for
    many: its time for one record goes up to 12 ms where there are few, which are put in a list instead.
    """
    keys = {}
    records = np.empty(len(positions), np.int64)
    for i, position in enumerate(positions.tolist()):
        epoch, place = divmod(position, count)
        if epoch not in keys:
            keys[epoch] = int(np.random.SeedSequence([word(seed), epoch]).generate_state(1)[0])
        if count <= FEW:
            records[i] = _shuffled(count, keys[epoch])[place]
        else:
            records[i] = grain.experimental.index_shuffle(place, max_index=count - 1, seed=keys[epoch], rounds=4)
    return records


@lru_cache(maxsize=32)
def _shuffled(count: int, key: int) -> Int[np.ndarray, " count"]:
    """A permutation, by bits that numpy promises not to change; its `permutation` may become another."""
    return np.argsort(np.random.Philox(key=[key, count]).random_raw(count), kind="stable")


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

    def __init__(self, reader: Reader, *, batch_size: int, rows: Int[np.ndarray, " b"], threads: int):
        super().__init__()
        self._reader, self._source, self._edge_px = reader, reader.source, reader.framing.edge_px
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
        """A batch of black pictures without fields (labels -1), to be filled where index >= 0."""
        count, edge = len(index), self._edge_px
        batch = {
            "image": np.zeros((count, edge, edge, 3), np.uint8),
            "size": np.full((count, 2), edge, np.int32),
            "index": index,
            "bad_index": np.full(count, -1, np.int64),
            "row": self._rows.astype(np.int32),
            "valid": index >= 0,
        }
        for name, (shape, dtype) in self._reader.spec.items():
            batch[name] = np.full((count, *shape), BLANK.get(name, 0 if shape else -1), dtype)
        return batch

    def _fill(self, batch: Batch, put: Callable[[Batch, int], None], positions: Sequence[int | None]) -> None:
        """Calls put(batch, k) for each valid place k, in threads, each a run of neighbours."""
        if hasattr(self._source, "gather") and self._reader.framing.crop == "device":
            self._gather(batch, positions)
            return
        places = np.flatnonzero(batch["valid"]).tolist()
        size = max(1, -(-len(places) // (4 * self._threads)))

        def put_run(start: int) -> None:
            for k in places[start : start + size]:
                put(batch, k)

        for _ in self._pool.map(put_run, range(0, len(places), size)):
            pass  # raises what a thread raised

    def _gather(self, batch: Batch, positions: Sequence[int | None]) -> None:
        """Fills the batch from a source of arrays in one call."""
        reader, valid, places = self._reader, batch["valid"], np.flatnonzero(batch["valid"]).tolist()
        got = self._source.gather(batch["index"][valid])
        pictures = got["image"]
        if valid.all() and pictures.shape == batch["image"].shape:
            batch["image"] = pictures
        else:
            for k, picture in zip(places, pictures, strict=True):
                image = fit(picture, self._edge_px)
                _place(batch, k, {"image": image, "size": image.shape[:2]})
        for name in reader.numbers:
            batch[name][valid] = got[name]
        for i, k in enumerate(places if reader.padded else ()):
            record = {name: values[i] for name, values in got.items()}
            sizes = pictures.shape[1:3], tuple(batch["size"][k].tolist())
            _place(batch, k, reader.padded_fields(record, int(batch["index"][k]), positions[k], *sizes))


class TrainDataset(BatchDataset):
    """Shuffled epochs without end, but for the batches in `left_out`.

    A record that cannot be used is replaced by another that can.
    """

    def __init__(self, reader: Reader, *, seed: int, left_out: tuple[int, ...] = (), **how: Any):
        super().__init__(reader, **how)
        self._seed, self._left_out = seed, left_out

    def _number(self, n: int) -> int:
        return batch_of(n, self._left_out)

    def __len__(self) -> int:
        return sys.maxsize

    def _batch(self, positions: np.ndarray) -> Batch:
        batch = self._blank(self._records(positions))
        wanted = positions.tolist()
        self._fill(batch, lambda batch, k: self._put_or_replace(batch, k, wanted[k]), wanted)
        return batch

    def _records(self, positions: np.ndarray) -> Int[np.ndarray, " b"]:
        if hasattr(self._source, "order"):
            return self._source.order(positions, self._seed)
        return order(positions, len(self._source), self._seed)

    def _put_or_replace(self, batch: Batch, k: int, position: int) -> None:
        wanted = int(batch["index"][k])
        peers = self._source.peers(wanted) if hasattr(self._source, "peers") else range(len(self._source))
        tries = min(MAX_FAILURES, len(peers))
        for attempt in range(tries):
            index = substitute(wanted, attempt, peers)
            try:
                arrays = self._reader(index, position)
            except BAD as error:
                reason = error
                continue
            _place(batch, k, arrays)
            batch["index"][k] = index
            batch["bad_index"][k] = wanted if attempt else -1
            return
        raise UserError(
            f"{tries} records, {self._source.name(wanted)} and others all over the set, "
            f"cannot be decoded ({self._source.name(index)}: {reason}); "
            "config.data.path seems to hold broken files, or files that are not pictures"
        )


class EvalDataset(BatchDataset):
    """Each record once, in order; a record that cannot be used is not 'valid'."""

    def __init__(self, reader: Reader, *, limit: int, **how: Any):
        super().__init__(reader, **how)
        count = len(self._source)
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
        self._fill(batch, self._put_or_mask, [None] * len(index))
        return batch

    def _put_or_mask(self, batch: Batch, k: int) -> None:
        index = int(batch["index"][k])
        try:
            _place(batch, k, self._reader(index))
        except BAD:
            batch["valid"][k] = False
            batch["bad_index"][k] = index


def _place(batch: Batch, k: int, arrays: Mapping[str, Any]) -> None:
    """Writes the arrays into place k, each at the beginning of its slot."""
    for name, value in arrays.items():
        batch[name][(k, *map(slice, np.shape(value)))] = value
