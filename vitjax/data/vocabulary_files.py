"""The files behind a tokenizer's name, and the copies of them that a run keeps.

A text means nothing to a model without the vocabulary that it was trained with, so a run and an export carry theirs.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from vitjax.data import cache, files
from vitjax.errors import UserError

FOLDER = "tokenizer"  # of a run or an export
# kind -> (module of `vitjax.data.tokenizers`, names of the files where the path is a folder)
KINDS = {
    "clip": ("clip_bpe", ("vocab.json", "merges.txt")),
    "hf": ("huggingface", ("tokenizer.json",)),
    "sentencepiece": ("sentence_pieces", ("tokenizer.model",)),
}
CHOICES = "'bytes', 'clip:PATH', 'hf:PATH' and 'sentencepiece:PATH'"


def kind_of(name: str) -> str:
    """'clip' of 'clip:PATH', and so on; '' of a name without files, such as 'bytes'."""
    kind, _, path = name.partition(":")
    return kind if kind in KINDS and path else ""


def paths(name: str) -> tuple[str, ...]:
    """The files that a tokenizer is made of; none of 'bytes'.

    Raises:
      UserError: one is not there.
    """
    kind = kind_of(name)
    if not kind:
        return ()
    path = os.path.expanduser(name.partition(":")[2])
    found = tuple(files.join(path, file) for file in KINDS[kind][1]) if files.is_folder(path) else (path,)
    for file in found:
        if not files.exists(file):
            raise UserError(
                f"config.data.tokenizer={name!r}: there is no {file}; name a vocabulary's file, or a folder that holds "
                f"{' and '.join(KINDS[kind][1])}"
            )
    return found


def digest(name: str) -> str:
    """Sixteen digits that stand for what is in the files; '' where there are none."""
    found = paths(name)
    said = hashlib.sha256(b"".join(hashlib.sha256(files.read(path)).digest() for path in found))
    return said.hexdigest()[:16] if found else ""


def keep(name: str, folder: Path) -> None:
    """Copies the files into the local `folder`/tokenizer, where there are some."""
    for path in paths(name):
        cache.put(Path(folder) / FOLDER / os.path.basename(path), files.read(path))


def kept(name: str, folder: str | os.PathLike) -> str:
    """The tokenizer's name with the copies that `folder` holds in place of the files; as it is where it has none."""
    kind = kind_of(name)
    if not kind:
        return name
    home = files.join(str(folder), FOLDER)
    path = name.partition(":")[2]
    alone = files.join(home, os.path.basename(path.rstrip("/")))
    if files.exists(alone):
        return f"{kind}:{alone}"
    return f"{kind}:{home}" if _all_there(home, KINDS[kind][1]) else name


def _all_there(folder: str, names: Sequence[str]) -> bool:
    return all(files.exists(files.join(folder, name)) for name in names)
