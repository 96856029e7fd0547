"""Captions as numbers: tokenizers, found by the name in `config.data.tokenizer`.

What a model and a loader must agree on is here: how long a text is, where it begins and ends, and how many
tokens there are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from vitjax.errors import UserError

PAD, BEGIN, END = 0, 1, 2
_SPECIALS = 3
_MIN_LENGTH = 3  # the beginning, the end, and something to say


class Tokenizer(NamedTuple):
    """What a text is to a model.

    `encode` gives text_length tokens, cut or padded. Longer texts lose what comes after, never their end token.
    `decode` gives the words back, without what is no text.
    """

    name: str
    vocab_size: int
    encode: Callable[[str], Int32[np.ndarray, " L"]]
    decode: Callable[[Int32[np.ndarray, " L"]], str]


def make(data: Any) -> Tokenizer:
    """The tokenizer that `config.data` names.

    Raises:
      UserError: there is no such tokenizer, or no room for a text.
    """
    if data.text_length < _MIN_LENGTH:
        raise UserError(
            f"config.data.text_length={data.text_length} must be at least {_MIN_LENGTH}: a text has a token for its "
            "beginning and one for its end; try 77"
        )
    if data.tokenizer != "bytes":
        raise UserError(f"config.data.tokenizer={data.tokenizer!r} is not known; choose from 'bytes'")
    return of_bytes(data.text_length)


def of_bytes(text_length: int) -> Tokenizer:
    """The bytes of UTF-8 after 0 (padding), 1 (beginning) and 2 (end): no vocabulary, and no word it lacks."""
    room = text_length - 2

    def encode(text: str) -> Int32[np.ndarray, " L"]:
        written = text[:room].encode("utf-8", "replace")
        if len(written) > room:
            written = written[:room].decode("utf-8", "ignore").encode()  # no half letter
        tokens = np.full(text_length, PAD, np.int32)
        tokens[0], tokens[len(written) + 1] = BEGIN, END
        tokens[1 : len(written) + 1] = np.frombuffer(written, np.uint8).astype(np.int32) + _SPECIALS
        return tokens

    def decode(tokens: Int32[np.ndarray, " L"]) -> str:
        written = np.asarray(tokens)
        if END in written:
            written = written[: np.argmax(written == END)]
        written = written[written >= _SPECIALS] - _SPECIALS
        return written.astype(np.uint8).tobytes().decode("utf-8", "replace")

    return Tokenizer("bytes", 256 + _SPECIALS, encode, decode)
