"""Grey pictures of one size in arrays: the files of MNIST and of the sets that have its form."""

import gzip
import math
import os
import re
import struct
import zlib
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from vitjax.data.splits import canonical, check_path, choose_split
from vitjax.errors import UserError

MAX_BYTES = 16 << 30  # of one file's array, which is kept in memory
CHUNK_BYTES = 16 << 20  # a read takes its memory before it knows what there is
_NAME = re.compile(
    r"(train|validation|val|test|t10k)-(images|labels)[-.]idx([13])-ubyte(\.gz)?", re.IGNORECASE
)
_UBYTE = 0x08  # the code of the only kind of numbers that these sets have


def make(data: Any, split: str) -> "IdxSource":
    """The pictures of the files in `data.path`."""
    return IdxSource(os.path.expanduser(str(data.path)), split)


def holds(path: str) -> bool:
    """Whether files with names as MNIST's lie there."""
    return any("images" in kinds for kinds in _files(path).values())


class IdxSource:
    """The pictures of one split, as `<split>-images-idx3-ubyte` with `<split>-labels-idx1-ubyte`, or these with .gz.

    't10k' is the split 'test'. Pictures are in memory, as grey values; a record has them as RGB. Classes are called by
    their numbers, up to the largest of all splits. Without a file of labels there are none.

    Raises:
      UserError: no such path, files or split, or a file that is damaged or does not fit to its other.
    """

    def __init__(self, path: str, split: str):
        check_path(path)
        splits = {name: kinds for name, kinds in _files(path).items() if "images" in kinds}
        if not splits:
            raise UserError(f"config.data.path={path}: no files named as train-images-idx3-ubyte there")
        mine = choose_split(splits, split, path)
        self._path, self._split = path, canonical(split)
        self._images = _array(mine["images"], 3)
        if not len(self):
            raise UserError(f"{mine['images']} holds no pictures")
        labels = {name: _array(kinds["labels"], 1) for name, kinds in splits.items() if "labels" in kinds}
        self.class_names: dict[str, tuple[str, ...]] = {}
        self._labels: dict[str, Int[np.ndarray, " N"]] = {}
        if self._split in labels:
            largest = max(int(values.max(initial=0)) for values in labels.values())
            self.class_names["label"] = tuple(map(str, range(largest + 1)))
            self._labels["label"] = labels[self._split].astype(np.int32)
            if len(self._labels["label"]) != len(self):
                raise UserError(
                    f"{mine['labels']} has {len(labels[self._split])} labels for {len(self)} pictures"
                )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        labels = {field: int(values[index]) for field, values in self._labels.items()}
        return {"image": _rgb(self._images[index]), **labels}

    def gather(self, indices: Int[np.ndarray, " B"]) -> dict[str, np.ndarray]:
        """Many records at once, stacked."""
        labels = {field: values[indices] for field, values in self._labels.items()}
        return {"image": _rgb(self._images[indices]), **labels}

    def name(self, index: int) -> str:
        """The split and the picture's number in it."""
        return f"{self._split}/{index}"

    def __repr__(self) -> str:
        return f"IdxSource({self._path!r}, {len(self)} pictures)"

    def __reduce__(self) -> tuple:
        """A copy reads the files itself."""
        return IdxSource, (self._path, self._split)


def _files(path: str) -> dict[str, dict[str, str]]:
    """{split: {'images' or 'labels': file}}; where one is there as it is and with .gz, as it is."""
    found: dict[str, dict[str, str]] = {}
    # Backwards, so that the name without .gz comes last.
    for name in sorted(os.listdir(path), reverse=True) if os.path.isdir(path) else ():
        match = _NAME.fullmatch(name)
        if match and os.path.isfile(os.path.join(path, name)):
            split = canonical(match[1].lower().replace("t10k", "test"))
            found.setdefault(split, {})[match[2].lower()] = os.path.join(path, name)
    return found


def _rgb(grey: UInt8[np.ndarray, "*B H W"]) -> UInt8[np.ndarray, "*B H W 3"]:
    return np.repeat(grey[..., None], 3, axis=-1)


def _array(file: str, axes: int) -> np.ndarray:
    """The bytes of a file as an array with this number of axes.

    No more memory is taken than the file has bytes or its header says, however much a .gz would give.

    Raises:
      UserError: it is damaged, or holds something else.
    """
    opened = gzip.open if file.lower().endswith(".gz") else open
    try:
        with opened(file, "rb") as stream:
            zero, kind, found, *shape = struct.unpack(f">HBB{axes}I", stream.read(4 + 4 * axes))
            if (zero, kind, found) != (0, _UBYTE, axes):
                raise ValueError(f"it does not begin as an array of bytes with {axes} axes does")
            count = math.prod(shape)
            if count > MAX_BYTES:
                raise ValueError(f"its header says {count:,} bytes, and {MAX_BYTES:,} is the most")
            data = bytearray()
            while len(data) <= count and (part := stream.read(min(CHUNK_BYTES, count + 1 - len(data)))):
                data += part
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise UserError(f"{file} cannot be read ({error}); get it again, or move it out") from error
    if len(data) != count:
        there = "more" if len(data) > count else f"{len(data):,}"
        raise UserError(
            f"{file} has {there} bytes where its header says {count:,}; get it again, or move it out"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)
