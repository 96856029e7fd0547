"""Names of classes as texts: prompts, and the direction of each class among the embeddings of texts.

Source: Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 3.1.4; the seven templates are those that
OpenAI's notebook on ImageNet names as the best few.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vitjax.data import captions
from vitjax.errors import UserError
from vitjax.vectors import normalised

SEVEN = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
SLOT = "{}"


class Templates(NamedTuple):
    """Sentences with a place for a name, and what they are called in a result."""

    name: str
    sentences: tuple[str, ...]

    def prompts(self, names: Sequence[str]) -> list[str]:
        """All sentences with the first name, then all with the second, and so on; '_' in a name is a space."""
        return [
            sentence.replace(SLOT, name.replace("_", " ")) for name in names for sentence in self.sentences
        ]


def templates_of(config: Any, setting: str) -> Templates:
    """The evaluator's sentences: those of the config, or of a file, one a line; without any SEVEN.

    Args:
      config: with `templates`, the path of the file, and `sentences`.
      setting: what the config is called.

    Raises:
      UserError: both are given, the file cannot be read, or a sentence has no {}.
    """
    path, sentences = config.templates, config.sentences
    sentences = (sentences,) if isinstance(sentences, str) else tuple(sentences)
    if path and sentences:
        raise UserError(f"{setting}.templates={path!r} and {setting}.sentences are both given; leave one of them empty")
    if sentences:
        return Templates("config", _with_slots(sentences, f"{setting}.sentences"))
    if not path:
        return Templates("seven", SEVEN)
    name = os.path.splitext(os.path.basename(path))[0]
    return Templates(name, _with_slots(_lines(path, f"{setting}.templates"), f"{setting}.templates={path!r}"))


def _with_slots(sentences: tuple[str, ...], where: str) -> tuple[str, ...]:
    for number, sentence in enumerate(sentences, 1):
        if SLOT not in sentence:
            raise UserError(f"{where}: sentence {number} is {sentence!r}; a prompt has {SLOT} where the name goes")
    return sentences


def read_names(path: str, setting: str, count: int) -> tuple[str, ...]:
    """The names in a file, one a line, in the order of the classes.

    Raises:
      UserError: the file cannot be read, or has more or fewer names than there are classes.
    """
    names = _lines(path, setting)
    if len(names) != count:
        raise UserError(
            f"{setting}={path!r} has {len(names)} names, and the data {count} classes; one a line, in their order"
        )
    return names


def digest(texts: Sequence[str]) -> str:
    """Eight digits that stand for these texts in this order."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


def class_vectors(embedded: Float[np.ndarray, "KT E"], classes: int) -> Float[np.ndarray, "K E"]:
    """The unit vector of each class: its prompts' unit vectors, their mean, and that again at length one."""
    by_class = normalised(embedded).reshape(classes, -1, embedded.shape[-1])
    return np.asarray(normalised(by_class.mean(1)))


def _lines(path: str, setting: str) -> tuple[str, ...]:
    try:
        found = captions.lines(os.path.expanduser(path))
    except OSError as error:
        raise UserError(f"{setting}={path!r} cannot be read ({error.strerror or error})") from error
    if not found:
        raise UserError(f"{setting}={path!r} is empty; one a line is wanted")
    return found
