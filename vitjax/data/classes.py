"""The classes of a set that nobody described: those that its labels name."""

from collections.abc import Iterable
from typing import Any

from vitjax.errors import UserError

MOST = 10_000_000  # classes; a number above is no class but an identity, a time or damage


def names(values: Iterable[int | str], where: str) -> tuple[str, ...]:
    """The names in the order of their numbers: texts sorted, or for whole numbers '0', '1' up to the largest.

    Numbers below 0 stand for 'no label'.

    Raises:
      UserError: texts and numbers are mixed, or a number is too large; the message begins with `where`.
    """
    seen = set(values)
    texts = sorted(value for value in seen if isinstance(value, str))
    if not texts:
        largest = max(seen, default=-1)
        if largest >= MOST:
            raise UserError(
                f"{where}: a label is {largest}, and class numbers end at {MOST:,}; name another column with "
                "config.data.label_columns"
            )
        return tuple(str(number) for number in range(largest + 1))
    if len(texts) < len(seen):
        number = next(value for value in seen if not isinstance(value, str))
        raise UserError(
            f"{where}: some labels are texts ({texts[0]!r}) and others numbers ({number}); name another column with "
            "config.data.label_columns"
        )
    return tuple(texts)


def number(value: Any, numbers: dict[str, int], count: int) -> int:
    """The number of a label among `count` classes; -1 where it is none of them or missing.

    Args:
      numbers: of the classes by their names, for labels that are texts.
    """
    if isinstance(value, str):
        return numbers.get(value, -1)
    return value if isinstance(value, int) and 0 <= value < count else -1
