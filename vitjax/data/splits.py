"""Splits: which files are for training, and which are kept for tests."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitjax.data import files
from vitjax.errors import UserError

SPLITS = ("train", "validation", "val", "test")
_SHARD = re.compile(rf"({'|'.join(SPLITS)})(?=[-_.]|$)", re.IGNORECASE)
_TFDS = re.compile(rf".+-({'|'.join(SPLITS)})\.\w+-\d+-of-\d+$", re.IGNORECASE)


class NoSuchSplit(UserError):
    """The set is there and has other splits."""


def canonical(split: str) -> str:
    """'validation' for 'val', else the name itself in lower case."""
    return "validation" if split.lower() == "val" else split.lower()


def split_of_shard(name: str) -> str | None:
    """The split that a shard's file name begins with ('train-00000-of-00002.parquet'), or None.

    In names as TensorFlow Datasets writes them ('cifar10-train.array_record-00000-of-00001') it stands in the middle.
    """
    found = _SHARD.match(name) or _TFDS.match(name)
    return canonical(found[1]) if found else None


def split_folders(path: str) -> dict[str, str]:
    """The splits that are folders directly under `path`: {split: folder}.

    Upper and lower case are the same here: a folder 'Test' taken for a class would put the test
    pictures into training.

    Raises:
      UserError: two folders are the same split.
    """
    found: dict[str, str] = {}
    for name, folder in files.folders(path):
        if name.lower() not in SPLITS:
            continue
        split = canonical(name)
        if split in found:
            raise UserError(
                f"config.data.path={path}: {os.path.basename(found[split])!r} and {name!r} "
                f"are both the split {split!r}; keep one of them"
            )
        found[split] = folder
    return found


def choose_split(splits: Mapping[str, Any], split: str, path: str) -> Any:
    """What `splits` holds under `split`, where 'val' and 'validation' are one name.

    Raises:
      NoSuchSplit: the message lists those there are.
    """
    if canonical(split) in splits:
        return splits[canonical(split)]
    there = ", ".join(repr(s) for s in sorted(splits))
    raise NoSuchSplit(
        f"the split {split!r} is not in config.data.path={path}, which has {there}; "
        "set config.data.split (training) or config.evals.<name>.train_split and eval_split to one of "
        "these; config.evals.<name>.every_steps=-1 switches an evaluator off"
    )


def refuse_unsplit(split: str, path: str) -> None:
    """Raises:
    NoSuchSplit: `split` is not 'train', in a set that has no splits and is therefore all 'train'.
    """
    if canonical(split) != "train":
        raise NoSuchSplit(
            f"the split {split!r} is not in config.data.path={path}: nothing there is marked as a split, "
            f"so all of it is 'train'; put the pictures into folders train/ and {canonical(split)}/, "
            "or use 'train'"
        )


def check_path(path: str) -> None:
    """Raises:
    UserError: there is nothing at `path`; the message says how far the path exists.
    """
    if not path:
        raise UserError("config.data.path is empty: name your pictures with --config.data.path=DIR")
    if files.is_remote(path):
        _check_url(path)
    elif not os.path.exists(path):
        parent = next(p for p in [*Path(path).absolute().parents] if p.exists())
        raise UserError(f"config.data.path={path} does not exist ({parent} does); give a folder that does")


def _check_url(path: str) -> None:
    try:
        exists = files.exists(path)
    except OSError as error:
        raise UserError(f"config.data.path={path} cannot be reached: {error}") from error
    if not exists:
        raise UserError(f"config.data.path={path} does not exist, or may not be seen; look at the URL and the key")
