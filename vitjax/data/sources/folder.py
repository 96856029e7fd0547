"""Pictures in a tree of folders: unlabelled, or one folder a class."""

import os
from array import array
from collections.abc import Iterator
from typing import Any

from vitjax.data.splits import check_path, choose_split, refuse_unsplit, split_folders
from vitjax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def make(data: Any, split: str) -> "FolderSource":
    """The pictures below `data.path`."""
    return FolderSource(os.path.expanduser(str(data.path)), split)


class FolderSource:
    """The pictures of one split of a folder, in the order of their names.

    Folders named train, validation, val or test directly under `path` are splits and never classes;
    without any of them everything is 'train'. A split is labelled where its pictures lie in two or
    more folders, which are the classes, and none beside these folders. The classes are those of all
    splits together, so that a label means the same in each of them. Hidden files are left out.
    Symbolic links are followed; a folder that several links reach is listed once.

    Raises:
      UserError: no such path or split, no pictures, or a link from one split into another.
    """

    def __init__(self, path: str, split: str):
        check_path(path)
        if not os.path.isdir(path):
            raise UserError(f"config.data.path={path} is a file; give the folder that holds the pictures")
        splits = split_folders(path)
        if not splits:
            refuse_unsplit(split, path)
        self._path = path
        self._root = choose_split(splits, split, path) if splits else path
        others = [folder for folder in splits.values() if folder != self._root]
        self._files = _Names()
        for folder, names in walk(self._root, others):
            self._files.add(folder, names)
        if not len(self._files):
            raise UserError(
                f"config.data.path={path}: no pictures in {self._root} (looked for {', '.join(SUFFIXES)} "
                "in it and all folders below)"
            )
        self.class_names = {}
        classes = sorted(set().union(*(_classes(root) for root in [self._root, *others])))
        if len(classes) > 1 and _classes(self._root):
            self.class_names = {"label": tuple(classes)}
            number = {name: label for label, name in enumerate(classes)}
            self._labels = [number[folder.split(os.sep)[0]] for folder in self._files.folders]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict:
        folder, name = self._files[index]
        with open(os.path.join(self._root, self._files.folders[folder], name), "rb") as file:
            record = {"image": file.read()}
        if self.class_names:
            record["label"] = self._labels[folder]
        return record

    def name(self, index: int) -> str:
        """The picture's path below `config.data.path`."""
        folder, name = self._files[index]
        return os.path.relpath(os.path.join(self._root, self._files.folders[folder], name), self._path)

    def __repr__(self) -> str:
        return f"FolderSource({self._root!r}, {len(self)} pictures)"


def walk(root: str, others: list[str] = ()) -> Iterator[tuple[str, list[str]]]:
    """(folder relative to root, its pictures' names) in the order of names, '' for root itself.

    Raises:
      UserError: a folder cannot be read, or a link leads into one of `others` (the other splits).
    """
    forbidden = [os.path.realpath(other) for other in others]
    seen = set()

    def visit(folder: str) -> Iterator[tuple[str, list[str]]]:
        status = os.stat(os.path.join(root, folder))
        if (status.st_dev, status.st_ino) in seen:  # a loop of links, or a second link to it
            return
        seen.add((status.st_dev, status.st_ino))
        files, folders = _scan(os.path.join(root, folder))
        for entry in files + folders:
            if entry.is_symlink():
                _refuse_link(entry.path, forbidden)
        if files:
            yield folder, [entry.name for entry in files]
        for entry in folders:
            yield from visit(os.path.join(folder, entry.name))

    _refuse_link(root, forbidden)
    yield from visit("")


def _scan(folder: str) -> tuple[list[os.DirEntry], list[os.DirEntry]]:
    """The pictures and the folders in `folder`; no hidden ones, pipes, devices or dangling links."""
    try:
        with os.scandir(folder) as entries:
            entries = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); allow it, or move it out") from error
    files = [e for e in entries if e.name.lower().endswith(SUFFIXES) and e.is_file()]
    return files, [e for e in entries if e.is_dir() and e.name != "__MACOSX"]


def _classes(root: str) -> set[str]:
    """The folders directly under `root` that hold pictures; none where pictures lie beside them."""
    files, folders = _scan(root)
    if files:
        return set()
    return {f.name for f in folders if next(walk(f.path), None)}


def _refuse_link(path: str, forbidden: list[str]) -> None:
    real = os.path.realpath(path)
    for other in forbidden:
        if real == other or real.startswith(other + os.sep):
            raise UserError(
                f"{path} leads to {real}, which is in another split: the same pictures would be in both; "
                "remove the link"
            )


class _Names:
    """Names of millions of files in some 30 bytes each: one string of bytes, and where each ends."""

    def __init__(self):
        self.folders: list[str] = []
        self._bytes = bytearray()
        self._ends = array("q", [0])
        self._folder_of = array("i")

    def add(self, folder: str, names: list[str]) -> None:
        for name in names:
            self._bytes += os.fsencode(name)
            self._ends.append(len(self._bytes))
            self._folder_of.append(len(self.folders))
        self.folders.append(folder)

    def __len__(self) -> int:
        return len(self._folder_of)

    def __getitem__(self, index: int) -> tuple[int, str]:
        """The number of the folder and the name in it."""
        name = self._bytes[self._ends[index] : self._ends[index + 1]]
        return self._folder_of[index], os.fsdecode(bytes(name))
