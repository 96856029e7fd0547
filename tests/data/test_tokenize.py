"""Captions as the bytes of UTF-8, and what all tokenizers share."""

import pickle

import ml_collections
import numpy as np
import pytest

from vitjax.config import base_config
from vitjax.data import tokenize, vocabulary_files
from vitjax.errors import UserError


def settings(**changes) -> ml_collections.ConfigDict:
    data = base_config().data
    data.update(changes)
    return data


def test_a_text_stands_between_its_beginning_and_its_end_and_comes_back():
    tokenizer = tokenize.of_bytes(10)
    tokens = tokenizer.encode("Äb")
    assert tokens.tolist() == [1, 0xC3 + 3, 0x84 + 3, ord("b") + 3, 2, 0, 0, 0, 0, 0]
    assert tokenizer.decode(tokens) == "Äb" and tokens.max() < tokenizer.vocab_size


def test_a_long_text_keeps_its_end_and_no_half_letter():
    tokenizer = tokenize.of_bytes(6)
    assert tokenizer.decode(tokenizer.encode("abcÄ")) == "abc"
    assert tokenizer.encode("abcdefgh").tolist()[-1] == tokenize.END


def test_what_fills_up_a_text_may_be_chosen_and_its_end_is_still_found():
    tokenizer = tokenize.make(settings(text_length=6, text_pad=2, text_clean="lower"))
    tokens = tokenizer.encode(" A  b")
    assert tokens.tolist() == [1, ord("a") + 3, ord(" ") + 3, ord("b") + 3, 2, 2]
    assert tokenizer.decode(tokens) == "a b"
    assert (tokenizer.pad, tokenizer.begin, tokenizer.end, tokenizer.text_length) == (2, 1, 2, 6)


def test_texts_for_siglip_have_no_punctuation():
    tokenizer = tokenize.make(settings(text_clean="canonical"))
    assert tokenizer.decode(tokenizer.encode("A dog_house, (red)!")) == "a dog house red"


def test_a_tokenizer_travels_to_another_process():
    tokenizer = tokenize.of_bytes(9)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(tokenizer)).encode("abc"), tokenizer.encode("abc")
    )


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"text_length=2 must be at least 3"):
        tokenize.make(settings(text_length=2))
    with pytest.raises(UserError, match=r"tokenizer='words' is not known; choose from 'bytes', 'clip:PATH'"):
        tokenize.make(settings(tokenizer="words"))
    with pytest.raises(UserError, match=r"text_clean='upper': choose from '', 'lower', 'canonical'"):
        tokenize.make(settings(text_clean="upper"))
    with pytest.raises(UserError, match=r"text_pad=300.*an id from 0 to 258"):
        tokenize.make(settings(text_pad=300))
    with pytest.raises(UserError, match=r"there is no .*vocab.json; .*vocab.json and merges.txt"):
        tokenize.make(settings(tokenizer=f"clip:{tmp_path}"))
    with pytest.raises(UserError, match=r"there is no .*gone.json"):
        tokenize.make(settings(tokenizer=f"hf:{tmp_path}/gone.json"))


def test_a_run_keeps_its_vocabulary_and_finds_it_when_the_file_is_gone(tmp_path):
    (tmp_path / "words.json").write_text("{}")
    name, home = f"hf:{tmp_path}/words.json", tmp_path / "run"
    assert vocabulary_files.kept(name, home) == name
    vocabulary_files.keep(name, home)
    before = vocabulary_files.digest(name)
    (tmp_path / "words.json").unlink()
    kept = vocabulary_files.kept(name, home)
    assert kept == f"hf:{home}/tokenizer/words.json" and vocabulary_files.digest(kept) == before
    (home / "tokenizer" / "words.json").write_text("[]")
    assert vocabulary_files.digest(kept) != before
    assert vocabulary_files.kept("bytes", home) == "bytes" and vocabulary_files.digest("bytes") == ""


def test_a_vocabulary_of_two_files_is_kept_as_a_folder(tmp_path):
    folder = tmp_path / "words"
    folder.mkdir()
    for file in ("vocab.json", "merges.txt"):
        (folder / file).write_text(file)
    vocabulary_files.keep(f"clip:{folder}", tmp_path / "run")
    assert vocabulary_files.kept(f"clip:{folder}", tmp_path / "run") == f"clip:{tmp_path}/run/tokenizer"
