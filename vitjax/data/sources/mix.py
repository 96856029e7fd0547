"""Several sources as one, each with its weight.

The records are those of all parts, one part after the other. What the weights decide is the order of training:
which part each position of the endless sequence belongs to, evenly spread and not drawn, so that every stretch of
n positions holds a part n * share times, give or take one for each part there is. Each part goes through shuffled
epochs of its own. All of it is a function of (seed, position), like the order of a single source.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from vitjax.data.batches import order
from vitjax.data.sources import Source, open_source
from vitjax.errors import UserError

_BITS = 30  # of a share: within 1e-9, and products of it with half a position stay below 2**63


def make(data: Any, split: str) -> "MixSource":
    """The parts that `data.mix` names.

    Raises:
      UserError: there is no part, a weight is not above 0, or a part cannot be opened.
    """
    if not data.mix:
        raise UserError(
            "config.data.mix is empty: give it parts in the config file, "
            "config.data.mix = dict(mine=mix_part(path=..., weight=2.0), others=mix_part(path=...))"
        )
    parts = {name: _open(name, part, data, split) for name, part in data.mix.items()}
    return MixSource(parts, [data.mix[name].weight for name in parts], tuple(data.fields))


def _open(name: str, part: Any, data: Any, split: str) -> Source:
    if part.weight <= 0:
        raise UserError(f"config.data.mix.{name}.weight={part.weight} must be above 0; take the part out instead")
    if part.source == "mix":
        raise UserError(f"config.data.mix.{name}.source='mix': a part is one source; name its parts beside the others")
    try:
        return open_source(_Part(part, data), part.split or split)
    except UserError as error:
        raise UserError(f"config.data.mix.{name}: {error}") from error


class _Part:
    """`config.data` as a part sees it: its own settings, and the common ones."""

    def __init__(self, part: Any, data: Any):
        self._own, self._data = dict(part), data

    def __getattr__(self, name: str) -> Any:
        if name == "mix":
            return {}
        own = self._own.get(name)  # None: the common one
        return getattr(self._data, name) if own is None else own


class MixSource:
    """The records of `parts`, of which each position of the training order takes one by their weights.

    A label is a name: the classes of a field are the names that its parts have, those of the first part (a config's
    parts go by their names) first, so that 'cat' is one class wherever it comes from. A part without a field that
    others have (its `fields` say so) gets it as unknown: label -1, no captions, no boxes, a mask of 255. Evaluation
    goes through the parts one after the other, and weights have no part in it.

    Raises:
      UserError: the parts number the classes of their masks differently.
    """

    def __init__(self, parts: Mapping[str, Source], weights: Sequence[float], fields: tuple[str, ...] = ()):
        self._names, self._parts = tuple(parts), tuple(parts.values())
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])
        self._shares = _shares(weights)
        self._weights = [weight / sum(weights) for weight in weights]
        self._fields = fields
        self.class_names = _class_names(parts)
        self._numbers = [self._numbers_of(part) for part in self._parts]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, place = self._find(index)
        record = self._blank() | self._parts[number][place]
        for field, numbers in self._numbers[number].items():
            record[field] = numbers[record[field]]
        return record

    def name(self, index: int) -> str:
        """The part's name and what it calls the record."""
        number, place = self._find(index)
        return f"{self._names[number]}: {self._parts[number].name(place)}"

    def order(self, positions: Int[np.ndarray, " B"], seed: int) -> Int[np.ndarray, " B"]:
        """The records at these positions of the endless order."""
        records = np.empty(len(positions), np.int64)
        places, left = np.arange(len(positions)), np.asarray(positions, np.int64)
        for number, (part, share) in enumerate(zip(self._parts, self._shares)):
            before = _taken(left, share)
            mine = _taken(left + 1, share) > before
            epochs = order(before[mine], len(part), seed + (number << 32))
            records[places[mine]] = self._starts[number] + epochs
            places, left = places[~mine], (left - before)[~mine]
        return records

    def peers(self, index: int) -> range:
        """The records that may stand in for one: those of its part, so that the weights hold."""
        number, _ = self._find(index)
        return range(int(self._starts[number]), int(self._starts[number + 1]))

    def __repr__(self) -> str:
        said = (f"{name} {100 * w:.3g}%" for name, w in zip(self._names, self._weights))
        return f"a mix of {', '.join(said)}"

    def _find(self, index: int) -> tuple[int, int]:
        """The part of a record, and its number there."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, index - int(self._starts[number])

    def _blank(self) -> dict[str, Any]:
        """A record of which nothing is known."""
        empty = {
            "text": {"text": ()},
            "boxes": {"boxes": np.zeros((0, 4), np.float32), "box_label": np.zeros(0, np.int32)},
            "mask": {"mask": None},
        }
        blank: dict[str, Any] = {field: -1 for field in self.class_names if field.split("/")[0] == "label"}
        for field in self._fields:
            blank |= empty[field]
        return blank

    def _numbers_of(self, part: Source) -> dict[str, Int[np.ndarray, " K"]]:
        """Field -> the mix's number of each class of the part; the last, which -1 finds, is -1."""
        return {
            field: np.array([self.class_names[field].index(name) for name in names] + [-1], np.int32)
            for field, names in part.class_names.items()
            if field != "mask"
        }


def _class_names(parts: Mapping[str, Source]) -> dict[str, tuple[str, ...]]:
    """Field -> the names of its classes, of all parts."""
    fields = dict.fromkeys(field for part in parts.values() for field in part.class_names)
    union = {}
    for field in fields:
        having = {name: part.class_names[field] for name, part in parts.items() if field in part.class_names}
        union[field] = tuple(dict.fromkeys(name for names in having.values() for name in names))
        if field == "mask" and len(set(map(tuple, having.values()))) > 1:
            raise UserError(
                f"config.data.mix: the masks of {', '.join(having)} have different classes, whose numbers would mean "
                "different things; mix sets with the same classes, or leave 'mask' out of config.data.fields"
            )
    return union


def _shares(weights: Sequence[float]) -> list[int]:
    """Each part's share of what the parts before it have left, in units of 2**-_BITS; the last takes all."""
    left = np.cumsum(np.asarray(weights, np.float64)[::-1])[::-1]
    return [round(weight / rest * 2**_BITS) for weight, rest in zip(weights[:-1], left)] + [2**_BITS]


def _taken(positions: Int[np.ndarray, " B"], share: int) -> Int[np.ndarray, " B"]:
    """How many of the positions before each of these a share takes: position * share, rounded down."""
    whole, rest = positions >> _BITS, positions & ((1 << _BITS) - 1)
    return whole * share + (rest * share >> _BITS)
