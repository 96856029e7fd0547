"""The built-in sources, which need no download: procedural scenes and real handwritten digits."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from vitjax.data import scenes, scenes_cache, scenes_draw, scenes_text
from vitjax.data.digits import DigitsSource
from vitjax.data.splits import NoSuchSplit, canonical
from vitjax.errors import UserError

NAMES = ("scenes", "digits")


def make(data: Any, split: str) -> "ScenesSource | DigitsSource":
    """The source that `config.data.builtin` names, of the split.

    Raises:
      UserError: no such set, split or size; or the drawn scenes cannot be kept.
    """
    if data.size_px < 8:
        raise UserError(f"config.data.size_px={data.size_px} is below 8, the least for built-in pictures")
    split = canonical(split)
    if data.builtin == "digits":
        return DigitsSource(split, data.size_px)
    if data.builtin != "scenes":
        raise UserError(f"config.data.builtin={data.builtin!r} is not known; choose from {', '.join(NAMES)}")
    if split not in scenes.SPLITS:
        there = ", ".join(scenes.SPLITS)
        raise NoSuchSplit(f"the split {split!r} is not in the built-in scenes, which have {there}")
    counts = {"train_examples": data.train_examples, "eval_examples": data.eval_examples}
    for key, count in counts.items():
        if count < 1:
            raise UserError(f"config.data.{key}={count} must be 1 or more")
    if data.seed < 0:
        raise UserError(f"config.data.seed={data.seed} must be 0 or more")
    count = counts["train_examples" if split == "train" else "eval_examples"]
    path = scenes_cache.ensure(data.cache_dir, data.seed, split, data.size_px, count)
    return ScenesSource(path, data.seed, split, data.size_px, count, tuple(data.fields))


class ScenesSource:
    """Pictures 0..count-1 of a split of the procedural world, read from where they were drawn once.

    A record holds the picture, its labels, and of 'text', 'boxes' and 'mask' those in `fields`. These, and
    the questions and answers of `example`, follow from its number and are made when they are asked for.
    """

    def __init__(
        self, path: Path, seed: int, split: str, size_px: int, count: int, fields: tuple[str, ...] = ()
    ):
        self._path, self._seed, self._split, self._size_px, self._count = path, seed, split, size_px, count
        self._fields = fields
        self._pictures: UInt8[np.ndarray, "B S S 3"] | None = None
        self._labels = _labels(seed, split, count)
        self.class_names = scenes.class_names()
        if "boxes" in fields:
            self.class_names["box_label"] = scenes.SHAPES
        if "mask" in fields:
            self.class_names["mask"] = ("background", *scenes.SHAPES)

    def __repr__(self) -> str:
        return f"the built-in scenes ({self._split}, {self._size_px} px)"

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> dict:
        labels = {field: int(values[i]) for field, values in self._labels.items()}
        asked = {field: values[0] for field, values in self._asked(np.array([i % self._count])).items()}
        return {"image": np.array(self._mapped()[i]), **labels, **asked}

    def gather(
        self, indices: Int[np.ndarray, " B"], fields: tuple[str, ...] | None = None
    ) -> dict[str, Any]:
        """Many records at once: the pictures and these of the labels, stacked; None: all that a record holds."""
        wanted = tuple(self._labels) if fields is None else fields
        labels = {field: self._labels[field][indices] for field in wanted}
        asked = self._asked(indices) if fields is None else {}
        return {"image": np.asarray(self._mapped()[indices]), **labels, **asked}

    def _asked(self, indices: Int[np.ndarray, " B"]) -> dict[str, Any]:
        """The fields beside the labels, each with one value a picture."""
        if not self._fields:
            return {}
        scene = scenes.sample(self._seed, self._split, indices)
        asked: dict[str, Any] = {}
        if "text" in self._fields:
            asked["text"] = [scenes_text.captions(scene, row) for row in range(len(indices))]
        if not {"boxes", "mask"} & set(self._fields):
            return asked
        owner = scenes_draw.owners(scene, self._size_px)
        if "boxes" in self._fields:
            corners, visible = scenes_draw.boxes(owner)
            shape = scene.shape.astype(np.int32)
            asked["boxes"] = [box[seen] for box, seen in zip(corners, visible)]
            asked["box_label"] = [names[seen] for names, seen in zip(shape, visible)]
        if "mask" in self._fields:
            # Number -1, the background, finds the last column.
            classes = np.pad(scene.shape + 1, ((0, 0), (0, 1))).astype(np.uint8)
            asked["mask"] = classes[np.arange(len(indices))[:, None, None], owner]
        return asked

    def name(self, i: int) -> str:
        """What messages call record i."""
        return f"scenes/seed{self._seed}/{self._split}/{i}"

    def example(self, i: int) -> dict:
        """All there is to know of picture i: `image` and the labels as in a record, and

        - `caption`, and `captions` with one of each form;
        - `boxes` float32 [M, 4], (y0, x0, y1, x1) in 0..1 of the visible pixels, the main object first;
        - `box_label`, `box_hue` int32 [M], the objects' shapes and hues;
        - `masks` bool [M, S, S], each object's visible pixels, in the order of the boxes;
        - `mask` uint8 [S, S], the class of each pixel: 0 background, else shape + 1;
        - `questions` and `answers`, one of each of scenes_text.QUESTION_TYPES, in that order.
        """
        if not -self._count <= i < self._count:
            raise IndexError(i)
        i %= self._count
        scene = scenes.sample(self._seed, self._split, np.array([i]))
        captions = scenes_text.captions(scene, 0)
        u = scenes.uniforms(self._seed, self._split, np.array([i]), scenes_text.SLOTS, stream=2)
        questions = scenes_text.questions(scene, 0, u[0])
        seen = scenes_draw.instances(scene, 0, self._size_px)
        box_label = scene.shape[0, seen.objects].astype(np.int32)
        mask = (seen.masks * (box_label + 1)[:, None, None]).sum(0).astype(np.uint8)
        return {
            **self[i],
            "caption": captions[i % len(captions)],
            "captions": captions,
            "boxes": seen.boxes,
            "box_label": box_label,
            "box_hue": scene.hue[0, seen.objects].astype(np.int32),
            "masks": seen.masks,
            "mask": mask,
            "questions": tuple(question for question, _ in questions),
            "answers": tuple(answer for _, answer in questions),
        }

    def _mapped(self) -> UInt8[np.ndarray, "B S S 3"]:
        if self._pictures is None:
            self._pictures = scenes_cache.open_pictures(self._path, self._count)
        return self._pictures

    def __getstate__(self) -> dict:
        """Without the map, which each process opens for itself."""
        return {**self.__dict__, "_pictures": None}


def _labels(seed: int, split: str, count: int) -> dict[str, Int[np.ndarray, " B"]]:
    """The label fields of pictures 0..count-1; drawing the numbers again takes under half a second."""
    starts = range(0, count, 4096)
    parts = [scenes.labels(scenes.sample(seed, split, np.arange(s, min(s + 4096, count)))) for s in starts]
    return {field: np.concatenate([part[field] for part in parts]) for field in parts[0]}
