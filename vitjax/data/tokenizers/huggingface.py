"""Any vocabulary of Hugging Face's `tokenizer.json`, through their library `tokenizers`."""

from collections.abc import Sequence
from typing import Any

from vitjax.data import files
from vitjax.errors import UserError

# Used for padding where the file has no section about it.
_PADS = ("<pad>", "[PAD]", "<|pad|>")


def read(name: str, paths: Sequence[str]) -> "HuggingFace":
    """The vocabulary in a tokenizer.json.

    Args:
      name: as config.data.tokenizer has it.

    Raises:
      UserError: the library is missing, or the file cannot be read.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            f"config.data.tokenizer={name!r} needs the library tokenizers: pip install 'vitjax[text]'"
        ) from error
    try:
        return HuggingFace(tokenizers.Tokenizer.from_str(files.read(paths[0]).decode()))
    except Exception as error:  # the library raises plain Exception
        raise UserError(
            f"config.data.tokenizer={name!r}: {paths[0]} cannot be read as a tokenizer ({error}); name a "
            "tokenizer.json as Hugging Face's libraries and tools/train_tokenizer.py write it"
        ) from error


class HuggingFace:
    """What the file says, but for its lengths: how long a text is belongs to the config.

    Beginning and end are those that the file puts around a text. Within a caption their names are words like others, or
    nothing: nobody ends a text by writing '</s>' into it.
    """

    def __init__(self, made: Any):
        made.no_truncation()
        padding = made.padding
        made.no_padding()
        made.encode_special_tokens = True
        self._made = made
        vocabulary = made.get_vocab(with_added_tokens=True)
        self.size = max(vocabulary.values()) + 1
        self.begin, self.end = _around(made)
        named = (vocabulary[pad] for pad in _PADS if pad in vocabulary)
        self.pad = padding["pad_id"] if padding else next(named, self.end)

    def ids(self, text: str, room: int) -> list[int]:
        """The first `room` pieces."""
        found = self._made.encode(text, add_special_tokens=False).ids
        return [i for i in found if i not in (self.begin, self.end)][:room]

    def text(self, ids: Sequence[int]) -> str:
        """The words, as the file puts them together."""
        return self._made.decode(list(ids), skip_special_tokens=True).strip()


def _around(made: Any) -> tuple[int | None, int | None]:
    """The ids that the file puts before and after a text.

    Raises:
      ValueError: they are more than one on a side.
    """
    alone, whole = made.encode("a", add_special_tokens=False).ids, made.encode("a").ids
    more = len(whole) - len(alone)
    places = [k for k in range(more + 1) if whole[k : k + len(alone)] == alone]
    if not alone or not places or places[0] > 1 or more - places[0] > 1:
        raise ValueError(
            f"it makes {whole} of a text of the tokens {alone}; one token before and one after are known"
        )
    return (whole[0] if places[0] else None), (whole[-1] if more > places[0] else None)
