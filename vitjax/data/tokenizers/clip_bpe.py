"""CLIP's byte-pair encoding, from OpenAI's file of merges or from Hugging Face's vocab.json and merges.txt.

Words, of letters that stand for bytes, are put together from their bytes by the merges, the first in the list first.
Ids are: 256 bytes, the same at the end of a word, the merges in their order, the beginning and the end of a text. In a
caption the names of these two are words like others: nobody ends a text by writing '<|endoftext|>' into it.

Source: https://github.com/openai/CLIP/blob/main/clip/simple_tokenizer.py
"""

import gzip
import itertools
import json
import re
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence

from vitjax.data import cleaning, files
from vitjax.errors import UserError

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
PAD = 0  # as CLIP does it, although 0 is also '!'
MERGES = 49152 - 256 - 2  # that CLIP uses; OpenAI's file has more
WORD_END = "</w>"
_CACHED = 1 << 16  # words

# Letters and digits are told apart afterwards: Python's `re` knows no class of them.
_PARTS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W_]+|(?:[^\s\w]|_)+", re.IGNORECASE)


def read(name: str, paths: Sequence[str]) -> "ClipBpe":
    """The vocabulary in the file of merges, or in vocab.json and merges.txt.

    Args:
      name: as config.data.tokenizer has it.

    Raises:
      UserError: a file cannot be read, or is no such vocabulary.
    """
    *vocab, merges = paths
    try:
        pairs = _merges(files.read(merges))
        numbers = json.loads(files.read(vocab[0])) if vocab else _numbers(pairs)
        return ClipBpe(numbers, pairs)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise UserError(
            f"config.data.tokenizer={name!r}: {' and '.join(paths)} cannot be read as CLIP's vocabulary "
            f"({type(error).__name__}: {error}); name OpenAI's bpe_simple_vocab_16e6.txt.gz, or a folder with "
            "vocab.json and merges.txt"
        ) from error


class ClipBpe:
    """CLIP's vocabulary.

    Args:
      numbers: piece -> id.
      merges: pairs of pieces that become one, the first ones first.
    """

    pad = PAD

    def __init__(self, numbers: Mapping[str, int], merges: Sequence[tuple[str, str]]):
        self._numbers, self._ranks = dict(numbers), {pair: rank for rank, pair in enumerate(merges)}
        self.begin, self.end = self._numbers[BEGIN], self._numbers[END]
        self.size = max(self._numbers.values()) + 1
        self._letters = _letters()
        ends = [letter + WORD_END for letter in self._letters]
        missing = [piece for piece in (*self._letters, *ends) if piece not in self._numbers]
        if missing:
            raise ValueError(f"{len(missing)} of 512 bytes, alone and at the end of a word, have no id")
        self._known: dict[str, list[int]] = {}

    def ids(self, text: str, room: int) -> list[int]:
        """The first `room` pieces of the text, which is cleaned as CLIP does it."""
        found: list[int] = []
        for word in _words(cleaning.clip(text)):
            found += self._word(word)
            if len(found) >= room:
                break
        return found[:room]

    def text(self, ids: Sequence[int]) -> str:
        """The words, with a space after each."""
        names = {number: piece for piece, number in self._numbers.items()}
        pieces = "".join(names[i] for i in ids if i in names and i not in (self.begin, self.end))
        bytes_of = {letter: byte for byte, letter in enumerate(self._letters)}
        words = [bytes(bytes_of[letter] for letter in word) for word in pieces.split(WORD_END)]
        return b" ".join(words).decode("utf-8", "replace").strip()

    def _word(self, word: str) -> list[int]:
        found = self._known.get(word)
        if found is None:
            found = [self._numbers[piece] for piece in self._pieces(word)]
            if len(self._known) < _CACHED:
                self._known[word] = found
        return found

    def _pieces(self, word: str) -> list[str]:
        """A word put together as far as the merges go."""
        pieces = [self._letters[byte] for byte in word.encode("utf-8", "replace")]
        pieces[-1] += WORD_END
        while len(pieces) > 1:
            pair = min(itertools.pairwise(pieces), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if pair not in self._ranks:
                break
            pieces = _joined(pieces, pair)
        return pieces

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_known": {}}


def _joined(pieces: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """The pieces with this pair as one wherever it stands, from left to right."""
    joined: list[str] = []
    at = 0
    while at < len(pieces):
        is_pair = tuple(pieces[at : at + 2]) == pair
        joined.append("".join(pair) if is_pair else pieces[at])
        at += 2 if is_pair else 1
    return joined


def _words(text: str) -> Iterator[str]:
    """Contractions, runs of letters, single digits and runs of other signs."""
    for part in _PARTS.findall(text):
        if part.isalpha() or not part[0].isalnum():
            yield part
            continue
        # Letters are letters to Unicode; whatever else is alphanumeric is a number.
        for is_letter, run in itertools.groupby(part, lambda sign: unicodedata.category(sign)[0] == "L"):
            signs = "".join(run)
            yield from [signs] if is_letter else signs


def _letters() -> list[str]:
    """The letter that stands for each byte: itself where it can be seen, else one from U+0100 on."""
    seen = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(0x100)
    return [chr(byte) if byte in seen else chr(next(others)) for byte in range(256)]


def _merges(data: bytes) -> list[tuple[str, str]]:
    """The pairs in a file of merges, one a line after a first line that says what it is; packed by gzip or not."""
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    pairs = [tuple(line.split()) for line in text.splitlines()[1 : MERGES + 1] if line.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError("a line does not hold two pieces")
    return pairs


def _numbers(pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The ids by the rule; the bytes that can be seen come first."""
    letters = sorted(_letters())
    pieces = [*letters, *(letter + WORD_END for letter in letters), *map("".join, pairs), BEGIN, END]
    return {piece: number for number, piece in enumerate(pieces)}
