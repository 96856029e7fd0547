"""Pictures that a set holds twice: the same bytes, or nearly the same picture.

Nearly the same is a perceptual hash of 64 bits that differs in at most `NEAR_BITS`: the signs of the lowest 8 x 8
frequencies of the picture's grey values against their median. It survives another size, quality and slight changes of
colour, not a crop or a mirror image. A video's neighbouring frames are near as well.
"""

import hashlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Int, UInt8, UInt64

Places = Int[np.ndarray, " N"]  # of pictures, those of the splits one after the other

NEAR_BITS = 3
# Two hashes that differ in three bits agree in one of four parts: only those that agree are compared.
_PARTS, _PART_BITS = 4, 16
# Hashes with equal parts that are compared with each other; in a larger crowd only neighbours by value are.
_MOST = 256
_EDGE_PX, _LOW = 32, 8
_FLAT = 2.0  # grey levels of deviation, below which the frequencies are noise
_EXAMPLES = 5


class Hashes(NamedTuple):
    """Those of the pictures of a split."""

    content: UInt64[np.ndarray, "N 2"]
    likeness: UInt64[np.ndarray, " N"]
    name: Callable[[int], str]


def content_hash(image: bytes | UInt8[np.ndarray, "H W 3"]) -> UInt64[np.ndarray, "2"]:
    """128 bits of the picture's file as it is stored, or of its array."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(image, np.ndarray):
        digest.update(repr(image.shape).encode())
        image = np.ascontiguousarray(image)
    digest.update(image)
    return np.frombuffer(digest.digest(), np.uint64)


def perceptual_hash(picture: UInt8[np.ndarray, "H W 3"]) -> np.uint64:
    """64 bits that pictures which look alike share; 0 for one of a single colour.

    Source: the DCT hash of Zauner, 2010, Implementation and Benchmarking of Perceptual Image Hash Functions.
    """
    small = cv2.resize(picture, (_EDGE_PX, _EDGE_PX), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    if grey.std() < _FLAT:
        return np.uint64(0)
    low = cv2.dct(grey)[:_LOW, :_LOW].ravel()
    low[0] = 0  # the mean says nothing about the form
    return np.packbits(low > np.median(low)).view(np.uint64)[0]


def same(hashes: UInt64[np.ndarray, "N 2"]) -> Int[np.ndarray, " N"]:
    """For each picture the first one of the same content: itself where there is none before."""
    _, first, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


def near(hashes: UInt64[np.ndarray, " N"], bits: int = NEAR_BITS) -> Int[np.ndarray, " N"]:
    """For each picture the first one of its group: those that are at most `bits` apart, directly or over others.

    Time grows as the number of pictures as long as their hashes are spread; memory is some 100 bytes each.
    """
    values, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    pairs = [_close_pairs(values, part, bits) for part in range(_PARTS)]
    left, right = (np.concatenate(side) for side in zip(*pairs))
    group = first.copy()
    while True:  # the smallest number of a group travels over its pairs
        least = np.minimum(group[left], group[right])
        before = group.copy()
        np.minimum.at(group, left, least)
        np.minimum.at(group, right, least)
        if (group == before).all():
            return group[inverse.reshape(-1)]


def held_twice(splits: Mapping[str, Hashes]) -> dict[str, dict[str, Any]]:
    """{'train': {'exact': found, 'near': found}, 'test in train': ...}, for each split and each two of them.

    What is found has 'count' and a few 'examples', each a pair of names. Within a split the first of a group is not
    counted; between two, the pictures of the later one are.
    """
    split_of = np.repeat(np.arange(len(splits)), [len(hashes.likeness) for hashes in splits.values()])
    content, likeness = (np.concatenate([hashes[k] for hashes in splits.values()]) for k in (0, 1))
    starts = np.searchsorted(split_of, np.arange(len(splits)))
    titles = list(splits)

    def name(place: int) -> str:
        split = split_of[place]
        return splits[titles[split]].name(place - int(starts[split]))

    found: dict[str, dict[str, Any]] = {}
    for kind, groups in (("exact", same(content)), ("near", near(likeness))):
        for one, other in itertools.combinations_with_replacement(range(len(splits)), 2):
            places = _again(groups, split_of, one) if one == other else _shared(groups, split_of, other, one)
            pairs = [[name(k), name(_partner(groups, split_of, k, one))] for k in places[:_EXAMPLES].tolist()]
            title = titles[one] if one == other else f"{titles[other]} in {titles[one]}"
            found.setdefault(title, {})[kind] = {"count": len(places), "examples": pairs}
    return found


def _again(groups: Places, split_of: Places, split: int) -> Places:
    """The pictures of a split that are not the first of their group in it."""
    inside = np.flatnonzero(split_of == split)
    return np.delete(inside, np.unique(groups[inside], return_index=True)[1])


def _shared(groups: Places, split_of: Places, one: int, other: int) -> Places:
    """The pictures of the split `one` that are in a group with a picture of the split `other`."""
    return np.flatnonzero((split_of == one) & np.isin(groups, groups[split_of == other]))


def _partner(groups: Places, split_of: Places, place: int, split: int) -> int:
    """The first picture of the split in the group of the one at `place`."""
    return int(np.argmax((groups == groups[place]) & (split_of == split)))


def _close_pairs(values: UInt64[np.ndarray, " N"], part: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of places in `values` that agree in one part and differ in few bits."""
    parts = (values >> np.uint64(part * _PART_BITS)) & np.uint64(2**_PART_BITS - 1)
    order = np.argsort(parts, kind="stable")
    parts, sorted_values = parts[order], values[order]
    at = np.arange(len(values))
    left, right = [], []
    for apart in range(1, _MOST):
        at = at[at + apart < len(values)]
        at = at[parts[at] == parts[at + apart]]
        if not len(at):
            break
        close = np.bitwise_count(sorted_values[at] ^ sorted_values[at + apart]) <= bits
        left.append(order[at[close]])
        right.append(order[at[close] + apart])
    empty = np.zeros(0, np.int64)
    return np.concatenate([empty, *left]), np.concatenate([empty, *right])
