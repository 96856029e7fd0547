"""What a set has, found by asking its source: the splits, and the fields of its records."""

import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vitjax.data.examples import FIELDS, first_readable
from vitjax.data.pipeline import threads
from vitjax.data.sources import Source, open_source
from vitjax.data.splits import NoSuchSplit
from vitjax.errors import UserError

SPLITS = ("train", "validation", "test")
_RUN = 16  # records that a thread works on before it takes others


def open_whole(data: Any, split: str) -> tuple[Source, tuple[str, ...]]:
    """The source that `config.data` describes, with all of FIELDS that it has whatever `data.fields` says, and these.

    Raises:
      UserError: as `open_source`; or no record can be read.
    """
    found = tuple(field for field in FIELDS if _has(data, split, field))
    return open_source(with_fields(data, found), split), found


def open_splits(data: Any, split: str = "") -> dict[str, tuple[Source, tuple[str, ...]]]:
    """{split: its source and fields} of all splits there are, or of the one that is named.

    Raises:
      UserError: there is none, or one cannot be opened.
    """
    found = {}
    for name in (split,) if split else SPLITS:
        try:
            open_source(with_fields(data, ()), name)
        except NoSuchSplit as error:
            missing = error
            continue
        found[name] = open_whole(data, name)
    if not found:
        raise missing
    return found


def with_fields(data: Any, fields: tuple[str, ...]) -> Any:
    """`config.data` with other fields."""
    return types.SimpleNamespace(**{**data, "fields": fields})


def in_threads(act: Callable[[int], Any], numbers: Iterable[int]) -> Iterator[Any]:
    """act(number) of each number, in their order, by all cores; a few runs of numbers are ahead at any time."""
    count = threads(0)
    waiting: deque = deque()
    with ThreadPoolExecutor(count, "vitjax-contents") as pool:
        for run in _runs(numbers):
            waiting.append(pool.submit(lambda run: [act(number) for number in run], run))
            if len(waiting) > 3 * count:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _runs(numbers: Iterable[int]) -> Iterator[list[int]]:
    run = []
    for number in numbers:
        run.append(number)
        if len(run) == _RUN:
            yield run
            run = []
    if run:
        yield run


def _has(data: Any, split: str, field: str) -> bool:
    """Whether a record has the field; a source says so by refusing it, or by leaving it out."""
    try:
        return field in first_readable(open_source(with_fields(data, (field,)), split))
    except UserError:
        return False
