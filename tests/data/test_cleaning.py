"""Texts in their plain forms."""

import pytest

from vitjax.data import cleaning


@pytest.mark.parametrize(
    "text, plain",
    [
        ("  A\tphoto \n of\u3000it ", "a photo of it"),
        ("Tom &amp;amp; Jerry &lt;3", "tom & jerry <3"),
        ("it\u2019s \u201cgood\u201d", 'it\'s "good"'),
        ("\ufb01ne \uff21\uff11", "fine a1"),
        ("cafe\u0301 \x92n\x00o\ufeff", "caf\u00e9 'no"),
        ("\u017f\ufb05", "\u017f\u017ft"),
    ],
)
def test_clip_reads_plain_letters_quotes_and_spaces(text, plain):
    assert cleaning.clip(text) == plain


def test_lower_and_canonical_keep_what_languages_write():
    assert cleaning.lower(" \u00c6ble  \u2019x") == "\u00e6ble \u2019x"
    assert cleaning.canonical("It's a T-shirt_print.") == "its a tshirt print"
