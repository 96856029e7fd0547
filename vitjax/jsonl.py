"""Files of JSON objects, one a line, to which a run that may be killed at any moment adds lines."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from etils import epath

Row = dict[str, Any]


def read(file: epath.PathLike) -> list[Row]:
    """The JSON objects in a file; none if there is no file, and a torn line is none."""
    file = epath.Path(file)
    if not file.is_file():
        return []
    found = (parsed(line) for line in file.read_bytes().decode(errors="replace").splitlines())
    return [row for row in found if row is not None]


def append(file: Path, row: Mapping[str, Any]) -> None:
    """Adds a line, after whatever a killed process left half written."""
    with open(file, "a", encoding="utf-8") as out:
        if out.tell() and not file.read_bytes().endswith(b"\n"):
            out.write("\n")
        out.write(json.dumps(row, allow_nan=False) + "\n")


def keep(file: Path, wanted: Callable[[Row], bool]) -> None:
    """Leaves the wanted objects alone in the file; a kill at any moment leaves the old file or the new one."""
    found = read(file)
    kept = [row for row in found if wanted(row)]
    if len(kept) < len(found):
        new = file.with_name(file.name + ".new")
        new.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(new, file)


def parsed(line: str) -> Row | None:
    """The object in a line, or None."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None
