"""Captions as the bytes of UTF-8."""

from types import SimpleNamespace

import pytest

from vitjax.data import tokenize
from vitjax.errors import UserError


def test_a_text_stands_between_its_beginning_and_its_end_and_comes_back():
    tokenizer = tokenize.of_bytes(10)
    tokens = tokenizer.encode("Äb")
    assert tokens.tolist() == [1, 0xC3 + 3, 0x84 + 3, ord("b") + 3, 2, 0, 0, 0, 0, 0]
    assert tokenizer.decode(tokens) == "Äb" and tokens.max() < tokenizer.vocab_size


def test_a_long_text_keeps_its_end_and_no_half_letter():
    tokenizer = tokenize.of_bytes(6)
    assert tokenizer.decode(tokenizer.encode("abcÄ")) == "abc"
    assert tokenizer.encode("abcdefgh").tolist()[-1] == tokenize.END


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"text_length=2 must be at least 3"):
        tokenize.make(SimpleNamespace(tokenizer="bytes", text_length=2))
    with pytest.raises(UserError, match=r"tokenizer='words' is not known"):
        tokenize.make(SimpleNamespace(tokenizer="words", text_length=9))
