"""The list of pictures that could not be decoded."""

import json
from collections.abc import Iterable
from pathlib import Path

from vitjax.data.decode import Undecodable, decode
from vitjax.data.sources import Source


class BadRecords:
    """`bad_records.jsonl` of a run: each undecodable record once, with its name and the reason.

    What an earlier part of the run listed is read first, so a resumed run adds no line twice. Only one
    process may write: give it the 'bad_index' of all of them.
    """

    def __init__(self, path: str | Path, source: Source):
        self._path = Path(path)
        self._source = source
        self._known: set[int] = {r["index"] for r in read(self._path) if self._is_ours(r)}

    @property
    def count(self) -> int:
        """How many records of this source are listed."""
        return len(self._known)

    def add(self, indices: Iterable[int]) -> None:
        """Lists the records that are not listed yet; negative numbers ('none') are passed over."""
        new = sorted({int(i) for i in indices if i >= 0} - self._known)
        if not new:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as file:
            if file.tell() and not self._path.read_bytes().endswith(b"\n"):
                file.write("\n")  # a run that was killed left half a line
            for index in new:
                line = dict(index=index, name=self._source.name(index), reason=reason(self._source, index))
                file.write(json.dumps(line) + "\n")
        self._known.update(new)

    def _is_ours(self, record: dict) -> bool:
        index = record["index"]
        return index < len(self._source) and self._source.name(index) == record["name"]


def read(path: str | Path) -> list[dict]:
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


def reason(source: Source, index: int) -> str:
    """Why the record cannot be decoded, found by trying again."""
    try:
        decode(source[index]["image"])
    except Undecodable as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return "decoded when tried again: it was not readable at first"
