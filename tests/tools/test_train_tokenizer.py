"""Tokenizers trained on captions."""

import pytest
import train_tokenizer

from vitjax.config import base_config
from vitjax.data import tokenize
from vitjax.data.tokenizers.huggingface import read
from vitjax.errors import UserError

pytest.importorskip("tokenizers")


@pytest.fixture
def scenes(tmp_path):
    return ["--config.data.builtin=scenes", "--config.data.size_px=16", "--config.data.train_examples=64",
            f"--config.data.cache_dir={tmp_path / 'cache'}"]  # fmt: skip


def test_captions_of_a_set_become_a_file_that_reads_them_in_few_tokens(tmp_path, scenes, capsys):
    files = [tmp_path / f"{k}.json" for k in range(2)]
    for file in files:
        assert train_tokenizer.main([*scenes, f"--out={file}", "--vocab_size=400"]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    data = base_config().data
    data.tokenizer, data.text_length = f"hf:{files[0]}", 64
    tokenizer = tokenize.make(data)
    assert (tokenizer.pad, tokenizer.begin, tokenizer.end) == (0, 1, 2) and 259 < tokenizer.vocab_size <= 400
    assert f"text_length={_longest(tokenizer, scenes)}" in capsys.readouterr().out
    written = "A  red disc, caf\u00e9 12 \U0001f642"
    assert tokenizer.decode(tokenizer.encode(written)) == "a red disc, caf\u00e9 12 \U0001f642"
    assert tokenizer.encode("red disc").tolist()[1:3] == tokenizer.encode("disc red").tolist()[2:0:-1]


def _longest(tokenizer, scenes):
    from vitjax import check
    from vitjax.data import contents

    source, _ = contents.open_splits(check.settings(None, scenes), "train")["train"]
    texts = list(train_tokenizer.captions(source))
    assert len(texts) >= 64
    return max(tokenizer.encode(text).tolist().index(2) + 1 for text in texts)


def test_a_vocabulary_without_room_or_captions_is_refused(tmp_path, scenes):
    with pytest.raises(UserError, match=r"--vocab_size=100 must be at least 259"):
        train_tokenizer.main([*scenes, f"--out={tmp_path / 'x.json'}", "--vocab_size=100"])
    with pytest.raises(UserError, match="there are no captions"):
        train_tokenizer.train(iter(()), 300, 2)
    digits = ["--config.data.builtin=digits", *scenes[1:], f"--out={tmp_path / 'x.json'}"]
    with pytest.raises(UserError, match="has no captions"):
        train_tokenizer.main(digits)
    assert not (tmp_path / "x.json").exists()


def test_pieces_that_are_met_once_are_no_tokens(tmp_path):
    file = tmp_path / "x.json"
    file.write_text(train_tokenizer.train(iter(["xyzzy", "plugh plugh"]), 300, 2).to_str())
    vocabulary = read("hf:x", [str(file)])
    assert len(vocabulary.ids("plugh", 9)) == 1 < len(vocabulary.ids("xyzzy", 9))
