"""Vocabularies of tokenizer.json files."""

import pickle
import sys

import pytest

from vitjax.config import base_config
from vitjax.data import tokenize
from vitjax.errors import UserError

WORDS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "red": 4, "star": 5, "a": 6}


def settings(path, **changes):
    data = base_config().data
    data.update(dict(tokenizer=f"hf:{path}", text_length=6) | changes)
    return data


def written(path, template="<s> $A </s>", words=WORDS, padding=None):
    """A tokenizer of whole words."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = [token for token in ("<pad>", "<s>", "</s>") if token in words]
    made.add_special_tokens(special)
    if template:
        around = [(token, words[token]) for token in special]
        made.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=around)
    if padding is not None:
        made.enable_padding(pad_id=padding, length=4)
    made.enable_truncation(3)  # lengths are the config's, not the file's
    made.save(str(path))
    return path


def test_the_files_beginning_end_and_padding_are_used_and_its_lengths_are_not(tmp_path):
    tokenizer = tokenize.make(settings(written(tmp_path / "tokenizer.json", padding=3)))
    assert (tokenizer.begin, tokenizer.end, tokenizer.pad, tokenizer.vocab_size) == (1, 2, 3, 7)
    assert tokenizer.encode("A red star").tolist() == [1, 6, 4, 5, 2, 3]
    assert tokenizer.encode("red star red star red star").tolist() == [1, 4, 5, 4, 5, 2]
    assert tokenizer.decode(tokenizer.encode("A red star")) == "a red star"


def test_a_folder_stands_for_its_tokenizer_json(tmp_path):
    written(tmp_path / "tokenizer.json")
    tokenizer = tokenize.make(settings(tmp_path))
    assert tokenizer.pad == 0 and tokenizer.encode("star").tolist() == [1, 5, 2, 0, 0, 0]


def test_a_file_may_have_an_end_alone_or_nothing_around_a_text(tmp_path):
    tokenizer = tokenize.make(settings(written(tmp_path / "t5.json", "$A </s>")))
    assert tokenizer.begin is None and tokenizer.encode("red star").tolist() == [4, 5, 2, 0, 0, 0]
    tokenizer = tokenize.make(settings(written(tmp_path / "bare.json", None)))
    assert (tokenizer.begin, tokenizer.end) == (None, None)
    assert tokenizer.decode(tokenizer.encode("red star")) == "red star"


def test_where_the_file_names_no_padding_the_end_or_the_config_does(tmp_path):
    words = {word: number - 1 for word, number in WORDS.items() if word != "<pad>"}
    assert tokenize.make(settings(written(tmp_path / "end.json", words=words))).pad == 1
    bare = written(tmp_path / "bare.json", None, words)
    with pytest.raises(UserError, match=r"text_pad=None.*its files name none"):
        tokenize.make(settings(bare))
    assert tokenize.make(settings(bare, text_pad=2)).pad == 2


def test_the_name_of_the_end_in_a_caption_ends_no_text(tmp_path):
    tokenizer = tokenize.make(settings(written(tmp_path / "tokenizer.json")))
    assert tokenizer.encode("red </s> star").tolist() == [1, 4, 5, 2, 0, 0]


def test_a_copy_by_pickle_is_the_same(tmp_path):
    tokenizer = tokenize.make(settings(written(tmp_path / "tokenizer.json")))
    copy = pickle.loads(pickle.dumps(tokenizer))
    for text in ("a red star", "red </s> star", "red " * 9):
        assert copy.encode(text).tolist() == tokenizer.encode(text).tolist()


def test_what_is_amiss_is_said_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UserError, match=r"bad.json cannot be read as a tokenizer.*train_tokenizer"):
        tokenize.make(settings(tmp_path / "bad.json"))
    two = written(tmp_path / "two.json", "<s> <s> $A")
    with pytest.raises(UserError, match=r"one token before and one after"):
        tokenize.make(settings(two))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"needs the library tokenizers: pip install 'vitjax\[text\]'"):
        tokenize.make(settings(two))
