"""The list of records that could not be used, and the end of a run that meets too many of them."""

import collections
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vitjax.data.examples import BAD
from vitjax.data.sources import Source

# So many records have to be met before a share of them says something; of smaller sets all.
LEAST = 1000
SHOWN = 10  # reasons that are listed

# What differs between records that are bad for the same reason: numbers and what is quoted.
_PARTICULAR = re.compile(r"b?'[^']*'|b?\"[^\"]*\"|\d[\d,.]*")


class BadRecords:
    """`bad_records.jsonl` of a run: each record that could not be used once, with its name and the reason.

    What an earlier part of the run listed is read first, so a resumed run adds no line twice. Only one
    process may write: give it the 'bad_index' of all of them.

    Args:
      path: of the file; None writes none.
      read: reads a record by its index, and raises what is wrong with it.
    """

    def __init__(self, path: str | Path | None, source: Source, read: Callable[[int], Any]):
        self._path, self._source, self._read = path if path is None else Path(path), source, read
        known = [] if path is None else listed(path)
        self._known: dict[int, str] = {r["index"]: r["reason"] for r in known if self._is_ours(r)}

    @property
    def count(self) -> int:
        """How many records of this source are listed."""
        return len(self._known)

    def add(self, indices: Iterable[int]) -> None:
        """Lists the records that are not listed yet; negative numbers ('none') are passed over."""
        new = {i: self._reason(i) for i in sorted({int(i) for i in indices if i >= 0} - set(self._known))}
        self._known.update(new)
        if new and self._path is not None:
            self._append(new)

    def too_many(self, met: int, max_fraction: float) -> bool:
        """Whether more than `max_fraction` are bad, of the distinct records of the source that were `met`.

        As if at least LEAST of them, or all there are, had been: the first few say nothing yet.
        """
        return self.count > max_fraction * min(max(met, LEAST), len(self._source))

    def reasons(self) -> str:
        """The most frequent reasons, a line each: how many records, why, and which for example."""
        groups = collections.defaultdict(list)
        for index, reason in self._known.items():
            groups[_PARTICULAR.sub("#", reason)].append(index)
        most = sorted(groups.values(), key=len, reverse=True)[:SHOWN]
        return "\n".join(
            f"{len(indices):>8,}  {self._known[indices[0]]}: {self._source.name(indices[0])}" for indices in most
        )

    def _append(self, new: dict[int, str]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as file:
            if file.tell() and not self._path.read_bytes().endswith(b"\n"):
                file.write("\n")  # a run that was killed left half a line
            for index, reason in new.items():
                line = dict(index=index, name=self._source.name(index), reason=reason)
                file.write(json.dumps(line) + "\n")

    def _reason(self, index: int) -> str:
        """Why the record cannot be used, found by trying again."""
        try:
            self._read(index)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        except BAD as error:
            return str(error)
        return "decoded when tried again: it was not readable at first"

    def _is_ours(self, record: dict) -> bool:
        index = record["index"]
        return index < len(self._source) and self._source.name(index) == record["name"]


def listed(path: str | Path) -> list[dict]:
    """The records listed in a file, [] where there is none; half a line of a killed run is passed over."""
    path = Path(path)
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
