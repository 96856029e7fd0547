"""Pictures in a tree of folders: unlabelled, or one folder a class; a text file beside a picture has its captions."""

import os
from array import array
from collections.abc import Iterator
from typing import Any

from vitjax.data import captions, files
from vitjax.data.splits import check_path, choose_split, refuse_unsplit, split_folders
from vitjax.data.strings import Strings
from vitjax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
SIDECAR = ".txt"


def make(data: Any, split: str) -> "FolderSource":
    """The pictures below `data.path`."""
    return FolderSource(os.path.expanduser(str(data.path)), split, tuple(data.fields))


class FolderSource:
    """The pictures of one split of a folder or URL, in the order of their names.

    Folders named train, validation, val or test directly under `path` are splits and never classes;
    without any of them everything is 'train'. A split is labelled where its pictures lie in two or
    more folders, which are the classes, and none beside these folders. The classes are those of all
    splits together, so that a label means the same in each of them. Hidden files are left out.
    Symbolic links are followed; a folder that several links reach is listed once. Names that differ
    in case alone are different names.

    With 'text' in `fields` the captions of a.jpg are the lines of a.txt beside it; where there is no such file, or
    nothing in it, there are none.

    Raises:
      UserError: no such path or split, no pictures, a link from one split into another, or captions are
        wanted and no picture has a text file.
    """

    def __init__(self, path: str, split: str, fields: tuple[str, ...] = ()):
        check_path(path)
        if not files.is_folder(path):
            raise UserError(f"config.data.path={path} is a file; give the folder that holds the pictures")
        splits = split_folders(path)
        if not splits:
            refuse_unsplit(split, path)
        self._path = path
        self._root = choose_split(splits, split, path) if splits else path
        others = [folder for folder in splits.values() if folder != self._root]
        self._list("text" in fields, others)
        self.class_names = {}
        classes = sorted(set().union(*(_classes(root) for root in [self._root, *others])))
        if len(classes) > 1 and _classes(self._root):
            self.class_names = {"label": tuple(classes)}
            number = {name: label for label, name in enumerate(classes)}
            self._labels = [number[_top(folder)] for folder in self._folders]

    def _list(self, with_captions: bool, others: list[str]) -> None:
        """Finds the pictures, and with captions which of them have a text file."""
        self._folders: list[str] = []
        self._names, self._folder_of = Strings(), array("i")
        self._has_sidecar = bytearray() if with_captions else None
        for folder, names in walk(self._root, others, (*SUFFIXES, SIDECAR) if with_captions else SUFFIXES):
            sidecars = {name for name in names if name.endswith(SIDECAR)}
            for name in names:
                if not name.lower().endswith(SUFFIXES):
                    continue
                self._names.append(name)
                self._folder_of.append(len(self._folders))
                if with_captions:
                    self._has_sidecar.append(sidecar(name) in sidecars)
            self._folders.append(folder)
        if not len(self):
            raise UserError(
                f"config.data.path={self._path}: no pictures in {self._root} (looked for {', '.join(SUFFIXES)} "
                "in it and all folders below)"
            )
        if with_captions and not any(self._has_sidecar):
            raise UserError(
                f"config.data.fields has 'text', but no picture in {self._root} has a text file: the captions of "
                f"{self.name(0)} would be the lines of {sidecar(self.name(0))}; or leave 'text' out"
            )

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict:
        path = self._place(index)
        record: dict[str, Any] = {"image": files.read(path)}
        if self.class_names:
            record["label"] = self._labels[self._folder_of[index]]
        if self._has_sidecar is not None:
            record["text"] = captions.lines(sidecar(path)) if self._has_sidecar[index] else ()
        return record

    def name(self, index: int) -> str:
        """The picture's path below `config.data.path`."""
        return files.below(self._path, self._place(index))

    def _place(self, index: int) -> str:
        folder = files.join(self._root, self._folders[self._folder_of[index]])
        return files.join(folder, self._names[index])

    def __repr__(self) -> str:
        return f"FolderSource({self._root!r}, {len(self)} pictures)"


def _top(folder: str) -> str:
    """The first folder of a relative path."""
    return folder.replace(os.sep, "/").split("/")[0]


def sidecar(picture: str) -> str:
    """The text file beside a picture."""
    return os.path.splitext(picture)[0] + SIDECAR


def walk(
    root: str, others: list[str] = (), suffixes: tuple[str, ...] = SUFFIXES
) -> Iterator[tuple[str, list[str]]]:
    """(folder relative to root, names of the files of these kinds in it) in the order of names, '' for root itself.

    Raises:
      UserError: a folder cannot be read, or a link leads into one of `others` (the other splits).
    """
    is_remote = files.is_remote(root)
    forbidden = [] if is_remote else [os.path.realpath(other) for other in others]
    seen = set()

    def visit(folder: str) -> Iterator[tuple[str, list[str]]]:
        place = files.join(root, folder)
        if not is_remote:
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:  # a loop of links, or a second link to it
                return
            seen.add((status.st_dev, status.st_ino))
        found, folders = _scan(place, suffixes)
        for entry in () if is_remote else found + folders:
            if entry.is_symlink():
                _refuse_link(entry.path, forbidden)
        if found:
            yield folder, [entry.name for entry in found]
        for entry in folders:
            yield from visit(files.join(folder, entry.name) if folder else entry.name)

    _refuse_link(root, forbidden)
    yield from visit("")


def _scan(folder: str, suffixes: tuple[str, ...]) -> tuple[list, list]:
    """The files of these kinds and the folders in `folder`; no hidden ones, pipes, devices or dangling links."""
    try:
        found, folders = files.scan(folder) if files.is_remote(folder) else _scan_local(folder, suffixes)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder} cannot be read ({reason}); allow it, or move it out") from error
    return [e for e in found if e.name.lower().endswith(suffixes)], [e for e in folders if e.name != "__MACOSX"]


def _scan_local(folder: str, suffixes: tuple[str, ...]) -> tuple[list[os.DirEntry], list[os.DirEntry]]:
    with os.scandir(folder) as entries:
        entries = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    # The name first: only links cost a look at the file.
    found = [e for e in entries if e.name.lower().endswith(suffixes) and e.is_file()]
    return found, [e for e in entries if e.is_dir()]


def _classes(root: str) -> set[str]:
    """The folders directly under `root` that hold pictures; none where pictures lie beside them."""
    found, folders = _scan(root, SUFFIXES)
    if found:
        return set()
    return {folder.name for folder in folders if next(walk(folder.path), None)}


def _refuse_link(path: str, forbidden: list[str]) -> None:
    if not forbidden:
        return
    real = os.path.realpath(path)
    for other in forbidden:
        if real == other or real.startswith(other + os.sep):
            raise UserError(
                f"{path} leads to {real}, which is in another split: the same pictures would be in both; "
                "remove the link"
            )
