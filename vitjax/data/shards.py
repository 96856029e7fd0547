"""Which files a set in shards is made of, and which split each of them belongs to."""

import os
import re
from collections.abc import Iterator

from vitjax.data import files
from vitjax.data.splits import check_path, choose_split, refuse_unsplit, split_folders, split_of_shard
from vitjax.errors import UserError

_NUMBER = re.compile(r"-\d+-of-\d+$")  # after the suffix, in 'train.array_record-00000-of-00010'
_BRACE = re.compile(r"\{([^{}]*)\}")
_SPAN = re.compile(r"(\d+)\.\.(\d+)")


def shards_of(path: str, suffixes: tuple[str, ...], split: str) -> tuple[list[str], list[str]]:
    """The files of a split, and those of all splits.

    Raises:
      UserError: there is nothing at the path, no such file in it, or no such split; or as `shard_files`.
    """
    if not is_pattern(path):
        check_path(path)
    splits = shard_files(path, suffixes)
    if not any(splits.values()):
        raise UserError(
            f"config.data.path={path}: no {' or '.join(suffixes)} files there, nor in its folder 'data' or in folders "
            "of splits; give the folder that holds them, or a pattern such as path/*/*" + suffixes[0]
        )
    if list(splits) == [None]:
        refuse_unsplit(split, path)
        return splits[None], splits[None]
    chosen = choose_split({name: found for name, found in splits.items() if name}, split, path)
    return chosen, [file for found in splits.values() for file in found]


def shard_files(path: str, suffixes: tuple[str, ...]) -> dict[str | None, list[str]]:
    """{split: files in the order of their names}; {None: files} where nothing names a split.

    `path`, local or a URL, is a file, a folder, or a pattern of files ('x/{00000..00012}.tar', 'x/*/0[01].tar').
    In a folder it looks at the files directly in it, else in its folder 'data', and in the folders of its splits.

    Raises:
      UserError: one split stands in folders and in file names, only some of the files name a split, or a
        file that a pattern spells out does not exist.
    """
    if is_pattern(path):
        return _refuse_half(_by_name(_matching(path, suffixes)), path)
    if _is_shard(path, suffixes) and (files.is_remote(path) or os.path.isfile(path)):
        return _by_name([path])
    if not files.is_folder(path):
        return {None: []}
    splits = _by_name(_shards(path, suffixes) or _shards(files.join(path, "data"), suffixes))
    for split, folder in split_folders(path).items():
        found = _shards(folder, suffixes)
        if found and split in splits:
            raise UserError(
                f"config.data.path={path}: the split {split!r} is the folder {folder} and also files named "
                f"{split}-*; keep one of them"
            )
        if found:
            splits[split] = found
    return _refuse_half(splits, path)


def is_pattern(path: str) -> bool:
    """Whether the path stands for several files by *, [..] or {..}, and is not itself the name of one."""
    if not files.is_remote(path) and os.path.exists(path):
        return False
    return "{" in path or _has_wildcard(path)


def _has_wildcard(path: str) -> bool:
    signs = "*[" if files.is_remote(path) else "*[?"  # a URL's query begins with a question mark
    return any(sign in path for sign in signs)


def _by_name(found: list[str]) -> dict[str | None, list[str]]:
    splits: dict[str | None, list[str]] = {}
    for file in found:
        splits.setdefault(split_of_shard(os.path.basename(file)), []).append(file)
    return splits


def _refuse_half(splits: dict[str | None, list[str]], path: str) -> dict[str | None, list[str]]:
    if len(splits) > 1 and None in splits:
        name = os.path.basename(splits[None][0])
        raise UserError(
            f"config.data.path={path}: {name!r} names no split but other files do; name it train-{name}, "
            "or move it out"
        )
    return splits or {None: []}


def _is_shard(path: str, suffixes: tuple[str, ...]) -> bool:
    return _NUMBER.sub("", path).endswith(suffixes)


def _shards(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """The shards directly in a folder, in the order of their names; none where there is no such folder."""
    if files.is_remote(folder):
        try:
            return [entry.path for entry in files.scan(folder)[0] if _is_shard(entry.name, suffixes)]
        except FileNotFoundError:
            return []
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        # The name first: it may be a folder of a million pictures.
        found = [e for e in entries if _is_shard(e.name, suffixes) and not e.name.startswith(".") and e.is_file()]
    return sorted(e.path for e in found)


def _matching(pattern: str, suffixes: tuple[str, ...]) -> list[str]:
    found = set()
    for path in _spelled_out(pattern):
        if _has_wildcard(path):
            found.update(files.matching(path))
        elif files.exists(path):
            found.add(path)
        else:
            raise UserError(f"config.data.path={pattern}: {path} does not exist; name those that do")
    return sorted(path for path in found if _is_shard(path, suffixes))


def _spelled_out(pattern: str) -> Iterator[str]:
    """The pattern with each {a,b} and {00..12} in turn replaced by its values."""
    brace = _BRACE.search(pattern)
    if not brace:
        yield pattern
        return
    span = _SPAN.fullmatch(brace[1])
    numbers = range(int(span[1]), int(span[2]) + 1) if span else ()
    values = [str(n).zfill(len(span[1])) for n in numbers] if span else brace[1].split(",")
    for value in values:
        yield from _spelled_out(pattern[: brace.start()] + value + pattern[brace.end() :])
