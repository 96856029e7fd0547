"""CLIP's byte-pair encoding against worked words, OpenAI's ids and open_clip."""

import gzip
import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import reference_libraries

from vitjax.config import base_config
from vitjax.data import tokenize
from vitjax.errors import UserError

MERGES = ["c a", "t h", "ca t</w>", "a t</w>", "a b", "ab ab"]
WORKED = {  # 0 to 255 bytes, 256 to 511 at the end of a word, then the merges, the beginning and the end
    "cat": [514],
    "cats": [512, 83, 338],  # ca, t, s</w>
    "hat": [71, 515],
    "abababc": [517, 516, 322],  # from left to right: ab ab ab c</w>
    "a1b": [320, 272, 321],
    "": [],
}
# OpenAI's vocabulary, without beginning and end.
GOLDEN = {
    "a photo of a cat.": [320, 1125, 539, 320, 2368, 269],
    "a photo of a dog": [320, 1125, 539, 320, 1929],
    "Hello, World!": [3306, 267, 1002, 256],
    "CIFAR-10 airplane": [698, 2384, 268, 272, 271, 16451],
    "a  close-up   photo of 3 tabby cats": [320, 2660, 268, 705, 1125, 539, 274, 36145, 3989],
    "na\u00efve caf\u00e9": [1097, 35689, 563, 15304],
    "it's 12:30 &amp; raining": [585, 568, 272, 273, 281, 274, 271, 261, 13964],
    "\U0001f642": [14860],
    "an itap of a {}.": [550, 529, 2728, 539, 320, 90, 92, 269],
    "": [],
}
ODD = [
    "don't we'll I'M you\u2019re 'section '99 !'s",
    "\u00c6ble \ufb01ne \uff21\uff11 \u2460\u00bd \u4e00\u4e8c \u0664\u0665 x\u00b2y",
    "snake_case __init__ #tag @me 50% $3.50 a/b",
    "e\u0301 n\u0303 \u0e01\u0e34\u0e19 \u0939\u093f\u0928\u094d\u0926\u0940 \ud55c\uad6d\uc5b4 \u65e5\u672c\u8a9e",
    "\U0001f469\u200d\U0001f680 \u2764\ufe0f \u2192 \u00a9 2024\u201325 \u2026",
    "<b>bold</b> &lt;i&gt; &quot;x&quot; &copy; AT&T",
    "tab\tline\nbreak\r\nnbsp\u00a0thin\u2009zero\u200bwidth",
    " ".join(f"word{i}" for i in range(60)),
]


def clip(path, text_length=77):
    data = base_config().data
    data.tokenizer, data.text_length = f"clip:{path}", text_length
    return tokenize.make(data)


def spoken(tokenizer, text):
    """The ids between the beginning and the end."""
    tokens = tokenizer.encode(text).tolist()
    assert tokens[0] == tokenizer.begin
    return tokens[1 : tokens.index(tokenizer.end)]


@pytest.fixture
def small(tmp_path):
    file = tmp_path / "few.txt.gz"
    file.write_bytes(gzip.compress("\n".join(["# made by hand", *MERGES]).encode()))
    return file


@pytest.fixture(scope="module")
def published():
    """OpenAI's file, as open_clip brings it along."""
    reference_libraries.torch()
    return Path(pytest.importorskip("open_clip").__file__).with_name("bpe_simple_vocab_16e6.txt.gz")


def test_words_are_put_together_by_the_first_merges_from_left_to_right(small):
    tokenizer = clip(small)
    assert tokenizer.vocab_size == 512 + len(MERGES) + 2 and tokenizer.pad == 0
    assert (tokenizer.begin, tokenizer.end) == (tokenizer.vocab_size - 2, tokenizer.vocab_size - 1)
    assert {text: spoken(tokenizer, text) for text in WORKED} == WORKED
    assert spoken(tokenizer, " CAT  hat") == WORKED["cat"] + WORKED["hat"]


def test_what_is_cut_keeps_its_end_and_what_is_short_is_padded_with_zeros(small):
    tokenizer = clip(small, 5)
    assert tokenizer.encode("cats hat cat").tolist() == [518, 512, 83, 338, 519]
    assert tokenizer.encode("cat").tolist() == [518, 514, 519, 0, 0]
    assert tokenizer.decode(tokenizer.encode("!! cat")) == "!! cat"


def test_the_name_of_the_end_in_a_caption_ends_no_text(small):
    tokens = clip(small, 40).encode("a <|endoftext|> cat").tolist()
    assert tokens.count(519) == 1 and tokens.index(519) > tokens.index(514)


def test_the_two_layouts_of_a_vocabulary_are_one(small, tmp_path):
    pieces = clip(small).encode.args[0]._numbers
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(pieces))
    (folder / "merges.txt").write_text(gzip.decompress(small.read_bytes()).decode())
    a, b = clip(small), clip(folder)
    for text in [*WORKED, *ODD]:
        np.testing.assert_array_equal(a.encode(text), b.encode(text))
    assert a.vocab_size == b.vocab_size and a.digest != b.digest


def test_a_copy_by_pickle_is_the_same_without_its_memory(small):
    tokenizer = clip(small)
    before = len(pickle.dumps(tokenizer))
    tokens = [tokenizer.encode(text).tolist() for text in ODD]
    assert len(pickle.dumps(tokenizer)) == before
    assert [pickle.loads(pickle.dumps(tokenizer)).encode(text).tolist() for text in ODD] == tokens


@pytest.mark.parametrize("data", [b"", b"\x1f\x8bbroken", b"# head\na b c\n", b"# head\n\xff\xfe a\n"])
def test_what_is_no_vocabulary_is_an_error_that_names_the_file(tmp_path, data):
    (tmp_path / "bad.txt").write_bytes(data)
    with pytest.raises(UserError, match=r"tokenizer='clip:.*bad.txt'.*cannot be read.*bpe_simple_vocab"):
        clip(tmp_path / "bad.txt")


def test_a_vocabulary_that_lacks_bytes_is_an_error(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}))
    (tmp_path / "merges.txt").write_text("# head\na b\n")
    with pytest.raises(UserError, match="511 of 512 bytes.* have no id"):
        clip(tmp_path)


@pytest.mark.parity
def test_ids_are_those_of_openai(published):
    tokenizer = clip(published)
    assert (tokenizer.vocab_size, tokenizer.begin, tokenizer.end) == (49408, 49406, 49407)
    assert {text: spoken(tokenizer, text) for text in GOLDEN} == GOLDEN


@pytest.mark.parity
def test_tokens_are_those_of_open_clip(published):
    theirs = reference_libraries.torch() and pytest.importorskip("open_clip").tokenizer.SimpleTokenizer()
    tokenizer = clip(published)
    words = " ".join(itertools.chain(*([word] * 3 for word in "the Quick br\u00f6wn 12 foxes".split())))
    for text in [*GOLDEN, *ODD, words]:
        np.testing.assert_array_equal(tokenizer.encode(text), theirs([text]).numpy()[0], err_msg=text)
