"""The decoders of JPEG, one at a time: what is missing for all but the first is hidden."""

import contextlib
from collections.abc import Iterator
from unittest import mock

from vitjax.data import decode

NAMES = ("simplejpeg", "opencv", "pillow")


@contextlib.contextmanager
def only(name: str) -> Iterator[None]:
    """`vitjax.data.decode` reads JPEG by this decoder meanwhile."""
    with contextlib.ExitStack() as hidden:
        if name != "simplejpeg":
            hidden.enter_context(mock.patch.object(decode, "simplejpeg", None))
        if name == "pillow":
            hidden.enter_context(mock.patch.object(decode, "_by_opencv", lambda data, max_pixels: None))
        yield
