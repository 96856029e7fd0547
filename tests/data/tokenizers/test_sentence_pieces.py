"""Vocabularies of SentencePiece models."""

import io
import pickle
import sys

import pytest

from vitjax.config import base_config
from vitjax.data import tokenize
from vitjax.errors import UserError


def settings(path, **changes):
    data = base_config().data
    data.update(dict(tokenizer=f"sentencepiece:{path}", text_length=8) | changes)
    return data


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model like SigLIP's: padding 0, end 1, no beginning."""
    sentencepiece = pytest.importorskip("sentencepiece")
    held = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red star", "a blue disc", "two red discs"] * 9), model_writer=held, vocab_size=24,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    file = tmp_path_factory.mktemp("model") / "words.model"
    file.write_bytes(held.getvalue())
    return file


def test_a_text_ends_with_the_models_end_and_is_padded(model):
    tokenizer = tokenize.make(settings(model))
    tokens = tokenizer.encode("a red").tolist()
    end = tokens.index(1)
    assert (tokenizer.pad, tokenizer.begin, tokenizer.end) == (0, None, 1)
    assert 0 < end < 7 and tokens[end:] == [1] + [0] * (7 - end)
    assert tokenizer.decode(tokenizer.encode("a red")) == "a red"
    assert tokenizer.encode("a red star " * 9).tolist()[-1] == 1


def test_siglip_pads_with_the_end(model):
    tokenizer = tokenize.make(settings(model, text_pad=1, text_clean="canonical"))
    tokens = tokenizer.encode("A red star!").tolist()
    assert tokens == tokenizer.encode("a red star").tolist() and tokens[-1] == 1
    assert tokenizer.decode(tokens[:-1] + [1]) == tokenizer.decode(tokens) and 0 not in tokens


def test_a_copy_by_pickle_is_the_same(model):
    tokenizer = tokenize.make(settings(model))
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("two blue stars").tolist() == tokenizer.encode("two blue stars").tolist()


def test_what_is_amiss_is_said_with_the_remedy(model, tmp_path, monkeypatch):
    (tmp_path / "bad.model").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"bad.model cannot be read as a SentencePiece model"):
        tokenize.make(settings(tmp_path / "bad.model"))
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r"needs the library sentencepiece: pip install 'vitjax\[text\]'"):
        tokenize.make(settings(model))
