"""A trained model in a notebook: `vitjax.load(path)`, of a run or an export, on one device."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from vitjax import experiment
from vitjax.data import tokenize
from vitjax.errors import UserError
from vitjax.evals import prompts
from vitjax.experiment import Experiment
from vitjax.vectors import normalised

Pictures = UInt8[np.ndarray, "B H W 3"] | Sequence[UInt8[np.ndarray, "h w 3"]]

MAX_BATCH = 64
MAX_TEXTS = 256
# Pixels of one batch's canvas: 2^24 are 200 MB as float32, which a laptop has.
MAX_PIXELS = 2**24
KEY = 0  # the same pictures give the same prediction, even one that draws at random


def load(path: str | Path) -> "Model":
    """The model that the run or the export at `path` holds, whatever mesh it was trained on.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    built = experiment.read(path)
    return Model(built, experiment.variables(built))


class Model:
    """Pictures (and texts, where it was trained with them) in, what the objective predicts out.

    Attributes:
      config: the run's, resolved.
      class_names: label field -> names, of the data it was trained on.
      variables: the weights, {'params': ..., 'batch_stats': ...}.
      outputs: the names that `predict` knows.
    """

    def __init__(self, built: Experiment, variables: Any):
        self.config = built.config
        self.class_names = {field: tuple(names) for field, names in built.run.class_names.items()}
        self.variables = jax.device_put(variables, jax.local_devices()[0])
        self.outputs = tuple(built.objective.predict)
        self._path = built.path
        self._functions = {name: jax.jit(function) for name, function in built.objective.predict.items()}

    def features(self, pictures: Pictures) -> Float[np.ndarray, "B D"]:
        """The backbone's features, one row a picture.

        Pictures may have any size, and in a list each its own. They are resized, cut and normalised here, as
        in evaluation: give them as they were read, uint8 RGB in 0..255.

        Raises:
          UserError: something else than such pictures.
        """
        return self.predict("features", pictures)

    def image_embed(self, pictures: Pictures) -> Float[np.ndarray, "B E"]:
        """Unit vectors of pictures, to be compared with those of texts; pictures as for `features`.

        Raises:
          UserError: the model was not trained with texts, or something else than such pictures was given.
        """
        return self.predict("image_embed", pictures)

    def text_embed(self, texts: Iterable[str]) -> Float[np.ndarray, "B E"]:
        """Unit vectors of texts: `model.image_embed(pictures) @ model.text_embed(texts).T` says how well they fit.

        Raises:
          UserError: the model was not trained with texts, or something else than texts was given.
        """
        function = self._function("text_embed")
        tokens = [self.tokenizer.encode(text) for text in _strings("texts", texts)]
        parts = [tokens[i : i + MAX_TEXTS] for i in range(0, len(tokens), MAX_TEXTS)]
        return np.concatenate([self._texts(function, part) for part in parts or [[]]])

    def zero_shot(
        self, pictures: Pictures, names: Iterable[str], templates: Iterable[str] | str = prompts.SEVEN
    ) -> Float[np.ndarray, "B K"]:
        """The cosine of each picture with each name, so that `names[row.argmax()]` is what it shows.

        A name is the mean of its prompts: `templates` (or the only one) with the name in place of {}. The cosines lie
        close together; they are to be compared in their row.

        Raises:
          UserError: the model was not trained with texts, there are no names, something is no text, or a template has
            no {}.
        """
        names = _strings("names", names)
        templates = _strings("templates", (templates,) if isinstance(templates, str) else templates)
        without = [sentence for sentence in templates if prompts.SLOT not in sentence]
        if without or not templates or not names:
            raise UserError(
                f"zero_shot takes at least one name, not {names!r:.80}, and templates with a place for it "
                f"({prompts.SLOT}): {without or templates}"
            )
        texts = prompts.Templates("", tuple(templates)).prompts(names)
        vectors = prompts.class_vectors(self.text_embed(texts), len(names))
        return np.asarray(normalised(self.image_embed(pictures))) @ vectors.T

    @functools.cached_property
    def tokenizer(self) -> tokenize.Tokenizer:
        """What texts are to this model."""
        return tokenize.make(self.config.data)

    def predict(self, name: str, pictures: Pictures) -> Any:
        """What the objective predicts under `name` (one of `outputs`), a row a picture, as numpy arrays.

        Raises:
          UserError: there is no such output, or something else than pictures was given.
        """
        function, key = self._function(name), jax.random.key(KEY)
        pictures = _checked(pictures)
        if not len(pictures):
            shapes = jax.eval_shape(function, self.variables, _batch([], [], 1, (32, 32)), key)
            return jax.tree.map(lambda x: np.zeros((0, *x.shape[1:]), x.dtype), shapes)
        order, parts = [], []
        for group, canvas in _groups(pictures):
            batch = _batch([pictures[i] for i in group], group, _padded(len(group)), canvas)
            out = jax.device_get(function(self.variables, batch, key))
            parts.append(jax.tree.map(lambda x, group=group: x[: len(group)], out))
            order.extend(group)
        back = np.argsort(order)
        return jax.tree.map(lambda *rows: np.concatenate(rows)[back], *parts)

    def _function(self, name: str) -> Callable:
        if name not in self._functions:
            raise UserError(f"this model predicts {', '.join(self.outputs)}; it has no {name!r}")
        return self._functions[name]

    def _texts(self, function: Callable, tokens: Sequence[np.ndarray]) -> Float[np.ndarray, "B E"]:
        """Up to MAX_TEXTS texts, in a batch of a size that many calls share."""
        text = np.zeros((_padded(max(1, len(tokens))), self.tokenizer.text_length), np.int32)
        text[: len(tokens)] = np.reshape(tokens, (-1, text.shape[1]))
        rows = np.arange(len(text), dtype=np.int32)
        batch = {"text": text, "row": rows, "valid": rows < len(tokens)}
        return jax.device_get(function(self.variables, batch, jax.random.key(KEY)))[: len(tokens)]

    def __repr__(self) -> str:
        count = sum(x.size for x in jax.tree.leaves(self.variables["params"]))
        return (
            f"Model({str(self._path)!r}: {experiment.title(self.config)}, "
            f"{count:,} parameters, {self.config.data.size_px} px, predicts {', '.join(self.outputs)})"
        )


def _strings(what: str, given: Any) -> list[str]:
    """The texts of any iterable.

    Raises:
      UserError: it is none, a single text, or holds something else.
    """
    try:
        texts = list(given)
    except TypeError:
        texts = [given]
    if isinstance(given, str) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{what} must be a list of str, such as ['a red bicycle'], and not {given!r:.80}")
    return [str(text) for text in texts]  # numpy's are str of their own kind


def _checked(pictures: Any) -> Any:
    """The pictures, if they are some."""
    if isinstance(pictures, Mapping | str):
        raise UserError("pictures must be a uint8 array [B, H, W, 3] or a list of arrays [h, w, 3]")
    if not isinstance(pictures, list | tuple):
        pictures = np.asarray(pictures)
        if pictures.ndim != 4:
            raise UserError(f"pictures of shape {pictures.shape} must be [B, H, W, 3]; one is picture[None]")
    pictures = pictures if isinstance(pictures, np.ndarray) else [np.asarray(x) for x in pictures]
    for picture in pictures[:1] if isinstance(pictures, np.ndarray) else pictures:
        if picture.ndim != 3 or picture.shape[-1] != 3 or not picture.size:
            raise UserError(f"a picture of shape {picture.shape} must be [height, width, 3], in RGB")
        if picture.dtype != np.uint8:
            raise UserError(f"pictures of type {picture.dtype} must be uint8 in 0..255, as they were read")
    return pictures


def _groups(pictures: Sequence[np.ndarray]) -> list[tuple[list[int], tuple[int, int]]]:
    """Numbers of pictures that share a canvas, in batches of a bounded number of pixels, and that canvas."""
    by_canvas: dict[tuple[int, int], list[int]] = {}
    for i, picture in enumerate(pictures):
        by_canvas.setdefault((_side(picture.shape[0]), _side(picture.shape[1])), []).append(i)
    groups = []
    for canvas, members in by_canvas.items():
        size = max(1, min(MAX_BATCH, MAX_PIXELS // (canvas[0] * canvas[1])))
        size = 1 << (size.bit_length() - 1)
        groups += [(members[i : i + size], canvas) for i in range(0, len(members), size)]
    return groups


def _side(px: int) -> int:
    """The canvas side for `px` pixels: 32, 48, 64, 96, ..., so that few shapes have to be compiled."""
    side = 32
    while side < px:
        side = side * 3 // 2 if side & (side - 1) == 0 else side * 4 // 3
    return side


def _padded(count: int) -> int:
    """The batch size for `count` pictures: the next power of two."""
    return 1 << (count - 1).bit_length()


def _batch(
    pictures: Sequence[np.ndarray], numbers: Sequence[int], batch_size: int, canvas: tuple[int, int]
) -> dict[str, np.ndarray]:
    """A batch as the loader makes them: whole pictures at the top left of the canvas."""
    image = np.zeros((batch_size, *canvas, 3), np.uint8)
    size = np.full((batch_size, 2), canvas, np.int32)
    row = np.zeros(batch_size, np.int32)
    for i, picture in enumerate(pictures):
        image[i, : picture.shape[0], : picture.shape[1]] = picture
        size[i], row[i] = picture.shape[:2], numbers[i]
    return {"image": image, "size": size, "row": row, "valid": np.arange(batch_size) < len(pictures)}
