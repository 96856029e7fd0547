"""Trains a tokenizer on the captions of a picture set: byte-level pairs, in one file for config.data.tokenizer.

    python tools/train_tokenizer.py DATA --out=tokenizer.json --vocab_size=8192
    python tools/train_tokenizer.py --config.data.builtin=scenes --out=tokenizer.json --vocab_size=1024
    python -m vitjax.main --config=... --config.data.tokenizer=hf:tokenizer.json

DATA is whatever vitjax reads captions from; --config.data.text_columns=... and the other settings of the data may be
given. Texts are read in lower case, digits one by one, and a word has the same pieces wherever it stands. Ids 0, 1
and 2 are the padding, the beginning and the end of a text. All bytes are in the vocabulary, so that no text is unknown
to it. The same captions give the same file. Needs the library tokenizers: pip install 'vitjax[text]'.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vitjax import check, cli
from vitjax.data import cache, contents
from vitjax.data.examples import BAD
from vitjax.data.sources import Source
from vitjax.errors import UserError

PAD, BEGIN, END = SPECIALS = ("<pad>", "<begin>", "<end>")
LEAST = 256 + len(SPECIALS)


def captions(source: Source) -> Iterator[str]:
    """All captions of all records that can be read."""

    def of_record(index: int) -> Sequence[str]:
        try:
            return source[index]["text"]
        except BAD:
            return ()

    for texts in contents.in_threads(of_record, range(len(source))):
        yield from texts


def train(texts: Iterator[str], vocab_size: int, min_count: int) -> Any:
    """A `tokenizers.Tokenizer` of at most `vocab_size` tokens; pairs met less often than `min_count` become none.

    Raises:
      UserError: the library is missing, there is no room for the bytes, or there is no text.
    """
    if vocab_size < LEAST:
        raise UserError(
            f"--vocab_size={vocab_size} must be at least {LEAST}: all bytes, and {', '.join(SPECIALS)}"
        )
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            "training a tokenizer needs the library tokenizers: pip install 'vitjax[text]'"
        ) from error
    made = _untrained(tokenizers)
    counted = _Counted(texts)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_count,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(counted, trainer)
    if not counted.count:
        raise UserError(
            "there are no captions: name a set that has some, and config.data.text_columns where needed"
        )
    around = [(token, made.token_to_id(token)) for token in (BEGIN, END)]
    template = f"{BEGIN} $A {END}"
    made.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=around)
    made.enable_padding(pad_id=made.token_to_id(PAD), pad_token=PAD)
    return made


def _untrained(tokenizers: Any) -> Any:
    """How texts are read before they are cut, and put together afterwards."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    cleaned, cut = tokenizers.normalizers, tokenizers.pre_tokenizers
    spaces = [cleaned.Replace(tokenizers.Regex(r"\s+"), " "), cleaned.Strip(), cleaned.Prepend(" ")]
    made.normalizer = cleaned.Sequence([cleaned.NFC(), cleaned.Lowercase(), *spaces])
    # The space before a first word is put there above: the splitter would put one before each digit.
    made.pre_tokenizer = cut.Sequence(
        [cut.Digits(individual_digits=True), cut.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    return made


class _Counted:
    """Texts, and how many have been handed out."""

    def __init__(self, texts: Iterator[str]):
        self._texts, self.count = texts, 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.count += 1
            yield text


def main(argv: Sequence[str]) -> int:
    """Writes the file and says what is in it."""
    options = cli.parser("train_tokenizer", __doc__)
    options.prog = "python tools/train_tokenizer.py"
    options.add_argument(
        "path", nargs="?", metavar="DATA", help="a folder, file, pattern or URL of captioned pictures"
    )
    options.add_argument("--out", required=True, metavar="FILE.json", help="where the tokenizer is written")
    options.add_argument(
        "--vocab_size", type=int, default=8192, help="tokens at most, %(default)s by default"
    )
    options.add_argument("--min_count", type=int, default=2, help="of a pair that becomes a token")
    options.add_argument(
        "--split", default="train", help="of the set; words of the test are no part of training"
    )
    values, given = cli.parse(options, argv)
    data = check.settings(values.path, given)
    source, fields = contents.open_splits(data, values.split)[values.split]
    if "text" not in fields:
        raise UserError(f"{source!r} has no captions; config.data.text_columns names columns that hold some")
    made = train(captions(source), values.vocab_size, values.min_count)
    cache.put(Path(values.out), made.to_str(pretty=True).encode())
    longest, mean = _lengths(made, source)
    print(
        f"Wrote {values.out}: {made.get_vocab_size():,} tokens, from {source!r}. Captions have {mean:.1f} tokens on "
        f"average and {longest} at most, beginning and end included: use\n"
        f"  --config.data.tokenizer=hf:{values.out} --config.data.text_length={longest}"
    )
    return 0


def _lengths(made: Any, source: Source) -> tuple[int, float]:
    """Tokens of the longest caption, and of one on average."""
    made.no_padding()
    lengths = [len(made.encode(text).ids) for text in captions(source)]
    return max(lengths), sum(lengths) / len(lengths)


if __name__ == "__main__":
    cli.run(main)
