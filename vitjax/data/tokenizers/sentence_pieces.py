"""Any SentencePiece model, through Google's library `sentencepiece`."""

from collections.abc import Sequence
from typing import Any

from vitjax.data import files
from vitjax.errors import UserError


def read(name: str, paths: Sequence[str]) -> "SentencePieces":
    """The vocabulary in a .model file.

    Args:
      name: as config.data.tokenizer has it.

    Raises:
      UserError: the library is missing, or the file cannot be read.
    """
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError(
            f"config.data.tokenizer={name!r} needs the library sentencepiece: pip install 'vitjax[text]'"
        ) from error
    try:
        return SentencePieces(sentencepiece.SentencePieceProcessor(model_proto=files.read(paths[0])))
    except (
        Exception
    ) as error:  # the library's errors are plain RuntimeErrors, and others for what is no model
        raise UserError(
            f"config.data.tokenizer={name!r}: {paths[0]} cannot be read as a SentencePiece model ({error}); name the "
            ".model file that its trainer wrote"
        ) from error


class SentencePieces:
    """The model's pieces; a text ends with the model's end token and has none for its beginning, as with T5 and SigLIP.

    SigLIP pads with the end token, which is config.data.text_pad=1 with its vocabulary; the padding that a model names
    is the default.
    """

    begin = None

    def __init__(self, made: Any):
        self._made = made
        self.size = made.vocab_size()
        self.end = made.eos_id() if made.eos_id() >= 0 else None
        self.pad = made.pad_id() if made.pad_id() >= 0 else self.end

    def ids(self, text: str, room: int) -> list[int]:
        """The first `room` pieces."""
        return self._made.encode(text)[:room]

    def text(self, ids: Sequence[int]) -> str:
        """The words, as the model puts them together."""
        return self._made.decode(list(ids))
