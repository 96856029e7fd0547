"""Texts as a text encoder was trained to see them: letters, spaces and quotes in their plain forms."""

import html
import string
import unicodedata
from collections.abc import Callable

_STRAIGHT = dict.fromkeys(map(ord, "\u02bc\u2018\u2019\u201a\u201b"), "'")
_STRAIGHT |= dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f"), '"')
# Letters that are two letters in one, as old encodings and printers have them; not those that languages use (ae, oe).
_LIGATURES = "\u0132\u0133\u0149\u01f1\u01f2\u01f3\u01c4\u01c5\u01c6\u01c7\u01c8\u01c9\u01ca\u01cb\u01cc"
_LIGATURES += "\ufb00\ufb01\ufb02\ufb03\ufb04\ufb06"
_CONTROLS = (
    *range(0x09),
    0x0B,
    *range(0x0E, 0x20),
    0x7F,
    *range(0x206A, 0x2070),
    0xFEFF,
    *range(0xFFF9, 0xFFFD),
)


def _plain_letters() -> dict[int, str | None]:
    """What `str.translate` makes plain: wide and narrow forms, ligatures, quotes, and what is no letter at all."""
    wide = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFFF0)}
    joined = {ord(letter): unicodedata.normalize("NFKC", letter) for letter in _LIGATURES}
    joined[0xFB05] = "\u017ft"
    windows = {code: bytes([code]).decode("cp1252", "ignore") or chr(code) for code in range(0x80, 0xA0)}
    found = {0x3000: " ", **wide, **joined, **windows}
    return (
        {code: text.translate(_STRAIGHT) for code, text in found.items()}
        | _STRAIGHT
        | dict.fromkeys(_CONTROLS)
    )


_PLAIN = _plain_letters()
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clip(text: str) -> str:
    """The text as CLIP reads it: entities of HTML as letters (twice escaped ones too), plain letters and quotes, single
    spaces, lower case.

    CLIP's own code calls ftfy, which also repairs text that was decoded by a wrong encoding ('caf\u00c3\u00a9'). That
    guesses, and another release guesses otherwise; here such a text stays as it is, and others come out the same.

    Source: https://github.com/openai/CLIP/blob/main/clip/simple_tokenizer.py
    """
    if "<" not in text:  # ftfy takes text with a tag for HTML, and leaves its entities to what follows
        text = html.unescape(text)
    text = unicodedata.normalize("NFC", text.translate(_PLAIN))
    return lower(html.unescape(html.unescape(text)))


def lower(text: str) -> str:
    """The text in lower case, with single spaces and none around it."""
    return " ".join(text.split()).lower()


def canonical(text: str) -> str:
    """The text in lower case without punctuation, as SigLIP reads it: 'A dog_house!' is 'a dog house'.

    Source: https://github.com/google-research/big_vision, evaluators/proj/image_text/prompt_engineering.py
    """
    return lower(text.replace("_", " ").translate(_NO_PUNCTUATION))


# What `config.data.text_clean` may say.
FORMS: dict[str, Callable[[str], str]] = {"": lambda text: text, "lower": lower, "canonical": canonical}
