"""Captions as numbers: tokenizers, found by the name in `config.data.tokenizer`.

What a model and a loader must agree on is here: how long a text is, where it begins and ends, what fills it up, and
how many tokens there are.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Int32

from vitjax.data import cleaning, vocabulary_files
from vitjax.errors import UserError

PAD, BEGIN, END = 0, 1, 2  # of 'bytes'
_SPECIALS = 3
_MIN_LENGTH = 3  # the beginning, the end, and something to say


class Vocabulary(Protocol):
    """The pieces that texts are cut into.

    Attributes:
      size: ids are below it.
      pad: what fills up a text; None where the files do not say.
      begin, end: the ids before and after a text; None where it has none.
    """

    size: int
    pad: int | None
    begin: int | None
    end: int | None

    def ids(self, text: str, room: int) -> Sequence[int]:
        """The text in pieces, the first `room` of them, without beginning and end."""

    def text(self, ids: Sequence[int]) -> str:
        """The words back."""


class Tokenizer(NamedTuple):
    """What a text is to a model.

    `encode` gives `text_length` tokens, cut or padded. Longer texts lose what comes after, never their end token.
    `decode` gives the words back, without what is no text.

    Attributes:
      pad: fills up short texts. It may be the id of a piece (0 is '!' to CLIP) or of the end (SigLIP): a model finds
        the end of a text by the first `end`, not by what is no padding.
      begin, end: stand before and after each text; None where texts have none.
      digest: of the vocabulary's files, '' where there are none.
    """

    name: str
    vocab_size: int
    encode: Callable[[str], Int32[np.ndarray, " L"]]
    decode: Callable[[Int32[np.ndarray, " L"]], str]
    text_length: int
    pad: int
    begin: int | None
    end: int | None
    digest: str = ""


def make(data: Any) -> Tokenizer:
    """The tokenizer that `config.data` names.

    Raises:
      UserError: there is no such tokenizer, its file is missing or damaged, a library is, or there is no room for a
        text.
    """
    if data.text_length < _MIN_LENGTH:
        raise UserError(
            f"config.data.text_length={data.text_length} must be at least {_MIN_LENGTH}: a text has a token for its "
            "beginning and one for its end; try 77"
        )
    if data.text_clean not in cleaning.FORMS:
        choices = ", ".join(map(repr, cleaning.FORMS))
        raise UserError(f"config.data.text_clean={data.text_clean!r}: choose from {choices}")
    name = data.tokenizer
    if name == "bytes":
        return _of(name, Bytes(), data.text_length, data.text_pad, data.text_clean)
    kind = vocabulary_files.kind_of(name)
    if not kind:
        raise UserError(
            f"config.data.tokenizer={name!r} is not known; choose from {vocabulary_files.CHOICES}"
        )
    module = importlib.import_module(f"vitjax.data.tokenizers.{vocabulary_files.KINDS[kind][0]}")
    vocabulary = module.read(name, vocabulary_files.paths(name))
    made = _of(name, vocabulary, data.text_length, data.text_pad, data.text_clean)
    return made._replace(digest=vocabulary_files.digest(name))


def of_bytes(text_length: int) -> Tokenizer:
    """The bytes of UTF-8 after 0 (padding), 1 (beginning) and 2 (end): no vocabulary, and no word it lacks."""
    return _of("bytes", Bytes(), text_length)


class Bytes:
    """The vocabulary of `of_bytes`."""

    size, pad, begin, end = 256 + _SPECIALS, PAD, BEGIN, END

    def ids(self, text: str, room: int) -> list[int]:
        """As many bytes as there is room for, and no half letter."""
        written = text[:room].encode("utf-8", "replace")
        if len(written) > room:
            written = written[:room].decode("utf-8", "ignore").encode()
        return [byte + _SPECIALS for byte in written]

    def text(self, ids: Sequence[int]) -> str:
        """The bytes read as UTF-8; what is no byte is left out."""
        return bytes(i - _SPECIALS for i in ids if i >= _SPECIALS).decode("utf-8", "replace")


def _of(
    name: str, vocabulary: Vocabulary, text_length: int, text_pad: int | None = None, clean: str = ""
) -> Tokenizer:
    """The tokenizer of a vocabulary."""
    pad = vocabulary.pad if text_pad is None else text_pad
    if pad is None or not 0 <= pad < vocabulary.size:
        raise UserError(
            f"config.data.text_pad={text_pad}: texts of config.data.tokenizer={name!r} are padded with an id from 0 to "
            f"{vocabulary.size - 1}" + (", and its files name none; try 0" if pad is None else "")
        )
    encode = functools.partial(_encode, vocabulary, text_length, pad, clean)
    decode = functools.partial(_decode, vocabulary, pad)
    return Tokenizer(
        name, vocabulary.size, encode, decode, text_length, pad, vocabulary.begin, vocabulary.end
    )


def _encode(
    vocabulary: Vocabulary, text_length: int, pad: int, clean: str, text: str
) -> Int32[np.ndarray, " L"]:
    before = [] if vocabulary.begin is None else [vocabulary.begin]
    after = [] if vocabulary.end is None else [vocabulary.end]
    room = text_length - len(before) - len(after)
    written = [*before, *vocabulary.ids(cleaning.FORMS[clean](text), room), *after]
    tokens = np.full(text_length, pad, np.int32)
    tokens[: len(written)] = written
    return tokens


def _decode(vocabulary: Vocabulary, pad: int, tokens: Int32[np.ndarray, " L"]) -> str:
    ids = np.asarray(tokens).tolist()
    if vocabulary.end in ids:  # what comes after is padding, whatever its id means elsewhere
        ids = ids[: ids.index(vocabulary.end)]
    elif vocabulary.end is None:
        while ids and ids[-1] == pad:
            ids.pop()
    return vocabulary.text(ids[1:] if ids and ids[0] == vocabulary.begin else ids)
