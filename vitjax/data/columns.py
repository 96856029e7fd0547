"""Which columns of a table hold the pictures, the labels and the captions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from vitjax.errors import UserError

# The usual names, of which the first that a table has is taken; case does not count.
LABEL = ("label", "class", "labels", "category")
TEXT = ("caption", "captions", "text", "title")


class Wanted(NamedTuple):
    """The columns that were named; '' and () stand for the usual ones, and None for no captions at all."""

    image: str = ""
    labels: tuple[str, ...] = ()
    texts: tuple[str, ...] | None = None


def wanted(data: Any) -> Wanted:
    """What `config.data` names. `text_columns` is read only where captions are asked for."""
    texts = tuple(data.text_columns) if "text" in data.fields else None
    return Wanted(data.image_column, tuple(data.label_columns), texts)


def usual(names: Sequence[str], there: Sequence[str]) -> tuple[str, ...]:
    """The first of these names that is there, as it is written there; () where none is."""
    written = {name.lower(): name for name in reversed(there)}
    return next(((written[name],) for name in names if name in written), ())


def named(key: str, names: Sequence[str], there: Sequence[str], where: str) -> tuple[str, ...]:
    """The names that `config.data.<key>` gives.

    Raises:
      UserError: one is not there; the message lists those that are.
    """
    missing = [name for name in names if name not in there]
    if missing:
        raise UserError(
            f"config.data.{key}={missing[0]!r} is not in {where}, whose columns are {', '.join(there) or 'none'}"
        )
    return tuple(names)


def texts(names: tuple[str, ...] | None, there: Sequence[str], where: str) -> tuple[str, ...]:
    """The columns of captions: those that were named, else the usual one; () where none are wanted.

    Raises:
      UserError: there is none.
    """
    if names is None:
        return ()
    found = named("text_columns", names, there, where) or usual(TEXT, there)
    if not found:
        raise UserError(
            f"config.data.fields has 'text', but {where} has no column {', '.join(TEXT[:-1])} or {TEXT[-1]}; name one "
            f"of its columns with config.data.text_columns: {', '.join(there)}"
        )
    return found


def fields(columns: Sequence[str]) -> dict[str, str]:
    """{field: column} of labels: 'label' for a lone column and for one of that name, else 'label/<column>'."""
    if len(columns) == 1:
        return {"label": columns[0]}
    return {name if name == "label" else f"label/{name}": name for name in columns}
