"""Pictures with boxes and captions, as COCO describes them in JSON."""

import logging
import os
import re
from typing import Any

import numpy as np

from vitjax.data import coco_json, files
from vitjax.data.decode import Undecodable
from vitjax.data.splits import SPLITS, canonical, check_path, choose_split, refuse_unsplit
from vitjax.errors import UserError

_NAME = re.compile(rf"(instances|captions)_(({'|'.join(SPLITS)})[^/]*)\.json", re.IGNORECASE)
_LOOKED_FOR = 16  # pictures, to find their folder
_log = logging.getLogger(__name__)

Described = dict[str, str]  # {'instances' or 'captions': file}, and 'tag': what the files' names end with


def make(data: Any, split: str) -> "CocoSource":
    """The pictures that the annotations at `data.path` name."""
    return CocoSource(os.path.expanduser(str(data.path)), split, tuple(data.fields))


def holds(path: str) -> bool:
    """Whether the path is a JSON file or has annotations by the names of COCO's."""
    return path.lower().endswith(".json") or any(_NAME.fullmatch(name) for name in _annotations(path))


class CocoSource:
    """The pictures of one split, in the order of its annotation file.

    `path` has a folder 'annotations' with instances_<split>*.json (boxes) and captions_<split>*.json, the pictures
    in <split>*, images/<split>*, images or itself; or it is one such JSON file, all of whose pictures are 'train'
    where its name says no split. A picture that is named there and absent is a bad record.

    'boxes' are those that `coco_json.usable` leaves; a warning counts the others. They are relative to the width and
    height of the JSON file, which are taken for those of the upright picture. 'box_label' numbers the categories of
    all splits in the order of their ids, without gaps. Pictures without boxes or captions stay.

    Raises:
      UserError: no such path or split, a file is not COCO's, two files are one split, the splits' categories
        contradict each other, or none of the first pictures exists.
    """

    def __init__(self, path: str, split: str, fields: tuple[str, ...] = ()):
        check_path(path)
        splits = _splits(path)
        if list(splits) == [None]:
            refuse_unsplit(split, path)
        described = splits.get(None) or choose_split(splits, split, path)
        primary = described.get("instances") or described["captions"]
        found = coco_json.read(primary)
        if not len(found.names):
            raise UserError(f"config.data.path={path}: {primary} lists no images")
        self._path, self._names = path, found.names
        self._folder = _picture_folder(primary, described["tag"], found.names)
        self.class_names: dict[str, tuple[str, ...]] = {}
        self._boxes = self._texts = None
        if "boxes" in fields:
            _needed(described, "instances", path)
            self._set_boxes(found, [each["instances"] for each in splits.values() if "instances" in each])
            self._has_size = (found.size > 0).all(1)
        if "text" in fields:
            self._set_texts(_needed(described, "captions", path), primary, found)

    def _set_boxes(self, found: coco_json.Annotations, paths: list[str]) -> None:
        names = _categories(paths)
        self.class_names["box_label"] = tuple(names.values())
        self._boxes = coco_json.usable(found, {category: number for number, category in enumerate(names)})
        counts = {reason: n for reason, n in self._boxes.left_out.items() if n}
        if counts or self._boxes.cut:
            _log.warning(
                "%s: of %d boxes %d are used, %d of them cut where they reach out of their picture; left out: %s",
                self._path, len(found.owner), len(self._boxes.label), self._boxes.cut,
                ", ".join(f"{n} {reason}" for reason, n in counts.items()) or "none",
            )  # fmt: skip

    def _set_texts(self, path: str, primary: str, found: coco_json.Annotations) -> None:
        said = found if path == primary else coco_json.read(path)
        # Numbers of pictures are those of the file that they come from.
        here = {found.names[i]: i for i in range(len(found.names))}
        number = np.array([here.get(said.names[i], -1) for i in range(len(said.names))] + [-1], np.int64)
        owner = number[said.text_owner]
        self._texts = said.texts
        self._text_order = np.argsort(owner, kind="stable")
        self._text_starts = coco_json.starts(owner[self._text_order], len(found.names))

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        record: dict[str, Any] = {"image": files.read_named(files.join(self._folder, self._names[index]))}
        if self._texts is not None:
            mine = self._text_order[self._text_starts[index] : self._text_starts[index + 1]]
            record["text"] = tuple(self._texts[i] for i in mine)
        if self._boxes is not None:
            if not self._has_size[index]:
                raise Undecodable("the JSON file gives no width and height, of which its boxes could be shares")
            mine = slice(self._boxes.starts[index], self._boxes.starts[index + 1])
            record |= {"boxes": self._boxes.boxes[mine], "box_label": self._boxes.label[mine]}
        return record

    def name(self, index: int) -> str:
        """The picture's path, from the folder of the set."""
        return files.below(self._path, files.join(self._folder, self._names[index]))

    def __repr__(self) -> str:
        return f"CocoSource({self._path!r}, {len(self)} pictures)"


def _annotations(path: str) -> dict[str, str]:
    """{name: path} of the files in the folder 'annotations'."""
    folder = files.join(path, "annotations")
    return {entry.name: entry.path for entry in files.scan(folder)[0]} if files.is_folder(folder) else {}


def _splits(path: str) -> dict[str | None, Described]:
    """{split: its files}; None where the name of the one file says no split."""
    if not files.is_folder(path):
        folder, name = os.path.split(path)
        own = _NAME.fullmatch(name)
        if own is None:
            return {None: {"instances": path, "captions": path, "tag": ""}}
        beside = {f"{kind}_{own[2]}.json" for kind in ("instances", "captions")} - {name}
        there = {n: files.join(folder, n) for n in beside if files.exists(files.join(folder, n))} | {name: path}
    else:
        there = _annotations(path)
    splits: dict[str | None, Described] = {}
    for name in sorted(there):
        found = _NAME.fullmatch(name)
        if found is None:
            continue
        described = splits.setdefault(canonical(found[3]), {"tag": found[2]})
        if described["tag"] != found[2]:
            raise UserError(
                f"config.data.path={path}: the split {canonical(found[3])!r} has the annotations of "
                f"{described['tag']!r} and of {found[2]!r}; give the path of one of the files instead"
            )
        described[found[1].lower()] = there[name]
    if not splits:
        raise UserError(
            f"config.data.path={path}: no annotations/instances_<split>*.json or captions_<split>*.json there; give "
            "the folder that has them, or the path of one JSON file"
        )
    return splits


def _needed(described: Described, kind: str, path: str) -> str:
    if kind in described:
        return described[kind]
    field = {"instances": "boxes", "captions": "text"}[kind]
    raise UserError(
        f"config.data.fields has {field!r}, but config.data.path={path} has no {kind}_{described['tag']}.json; "
        f"add it, or leave {field!r} out"
    )


def _categories(paths: list[str]) -> dict[int, str]:
    """{id: name} of all files together, in the order of the ids."""
    names: dict[int, str] = {}
    for path in paths:
        for category, name in coco_json.categories(path).items():
            if names.setdefault(category, name) != name:
                raise UserError(
                    f"{path}: category {category} is {name!r}, and {names[category]!r} in another split; number the "
                    "categories alike"
                )
    return dict(sorted(names.items()))


def _picture_folder(path: str, tag: str, names: Any) -> str:
    """Where the pictures lie that an annotation file names: the first usual place that has one of them."""
    folder = os.path.dirname(path)
    root = os.path.dirname(folder) if os.path.basename(folder) == "annotations" else folder
    places = [root]
    for place in ("images", f"images/{tag}", tag) if tag else ("images",):
        places.insert(0, files.join(root, place))
    looked_for = [names[i] for i in range(min(_LOOKED_FOR, len(names)))]
    for place in places:
        if any(files.exists(files.join(place, name)) for name in looked_for):
            return place
    raise UserError(
        f"{path} names {looked_for[0]!r} and other pictures of which the first {len(looked_for)} are not in "
        f"{', '.join(places)}; put the pictures there"
    )
