"""Pictures with a mask each: folders `images` and `masks` with files of the same names."""

import os
from typing import Any

from vitjax.data import files
from vitjax.data.sources.folder import SUFFIXES, walk
from vitjax.data.splits import check_path, choose_split, refuse_unsplit, split_folders
from vitjax.data.strings import Strings
from vitjax.errors import UserError

MAX_CLASSES = 256  # what a byte can number


def make(data: Any, split: str) -> "MasksSource":
    """The pictures of `data.path`."""
    return MasksSource(os.path.expanduser(str(data.path)), split, has_mask="mask" in data.fields)


def holds(path: str) -> bool:
    """Whether folders `images` and `masks` lie there, or in each of its splits, with pictures in both of them.

    Without splits they might be two classes; names that agree tell them apart from these.
    """
    if not os.path.isdir(path):
        return False
    roots = list(split_folders(path).values()) or [path]
    return all(_is_paired(root) for root in roots)


class MasksSource:
    """The pictures of one split, in the order of their names.

    Splits are folders train, validation, val or test that hold `images` and `masks`; without any of them everything
    is 'train'. The mask of `images/x/a.jpg` is `masks/x/a.png`; a picture without one has None, and a mask without a
    picture is left out. Line n of `classes.txt`, from 0, is the name of class n; without that file the classes have no
    names.

    Raises:
      UserError: no such path or split, no pictures, no masks where `has_mask`, or over 256 classes.
    """

    def __init__(self, path: str, split: str, has_mask: bool = False):
        check_path(path)
        splits = split_folders(path) if os.path.isdir(path) else {}
        if not splits:
            refuse_unsplit(split, path)
        self._path, self._has_mask = path, has_mask
        self._root = choose_split(splits, split, path) if splits else path
        self._names = Strings()  # below `images`
        pictures = os.path.join(self._root, "images")
        if os.path.isdir(pictures):
            for folder, names in walk(pictures, [root for root in splits.values() if root != self._root]):
                for name in names:
                    self._names.append(os.path.join(folder, name))
        if not len(self):
            raise UserError(
                f"config.data.path={path}: no pictures in {pictures} (looked for {', '.join(SUFFIXES)})"
            )
        self.class_names: dict[str, tuple[str, ...]] = {}
        if has_mask:
            self._refuse_no_masks()
            self.class_names = _class_names(os.path.join(path, "classes.txt"))

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record: dict[str, Any] = {"image": files.read(self._picture(index))}
        if self._has_mask:
            mask = self._mask(index)
            record["mask"] = files.read(mask) if os.path.isfile(mask) else None
        return record

    def name(self, index: int) -> str:
        """The picture's path below `config.data.path`."""
        return os.path.relpath(self._picture(index), self._path)

    def __repr__(self) -> str:
        return f"MasksSource({self._root!r}, {len(self)} pictures)"

    def _picture(self, index: int) -> str:
        return os.path.join(self._root, "images", self._names[index])

    def _mask(self, index: int) -> str:
        """Where the mask of a picture would be."""
        return _mask_of(os.path.join(self._root, "masks", self._names[index]))

    def _refuse_no_masks(self) -> None:
        if not any(os.path.isfile(self._mask(i)) for i in range(len(self))):
            raise UserError(
                f"config.data.fields has 'mask', but no picture in {self._root} has one (that of {self.name(0)} "
                f"would be {self._mask(0)})"
            )


def _mask_of(name: str) -> str:
    return os.path.splitext(name)[0] + ".png"


def _is_paired(root: str) -> bool:
    """Whether the first folder of pictures in `images` has a mask for one of its pictures."""
    pictures, masks = os.path.join(root, "images"), os.path.join(root, "masks")
    if not os.path.isdir(pictures) or not os.path.isdir(masks):
        return False
    folder, names = next(walk(pictures), ("", []))
    return any(os.path.isfile(os.path.join(masks, folder, _mask_of(name))) for name in names)


def _class_names(file: str) -> dict[str, tuple[str, ...]]:
    """{'mask': the lines of the file}, {} where there is none."""
    if not os.path.isfile(file):
        return {}
    names = files.read(file).decode("utf-8-sig", "replace").rstrip().splitlines()
    if len(names) > MAX_CLASSES:
        raise UserError(
            f"{file} has {len(names)} lines; a mask holds the numbers 0 to 255, one line a number"
        )
    return {"mask": tuple(name.strip() for name in names)}
