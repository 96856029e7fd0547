"""Millions of short strings in memory: names of files, captions."""

from array import array
from collections.abc import Iterable


class Strings:
    """A list of str that only grows, at some 8 bytes each and those of its text: one string of bytes, and ends.

    Each comes back as it was, also halves of surrogate pairs, which names of files that are no UTF-8 have in Python.
    """

    def __init__(self, values: Iterable[str] = ()):
        self._bytes = bytearray()
        self._ends = array("q", [0])
        for value in values:
            self.append(value)

    def append(self, value: str) -> None:
        self._bytes += value.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return self._bytes[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogatepass")
