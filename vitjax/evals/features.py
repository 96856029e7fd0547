"""Frozen features of a whole split, and what every evaluator on them shares."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from vitjax import augment, multihost, sharding
from vitjax.data.tokenize import Tokenizer
from vitjax.errors import UserError

RAW_PIXELS_PX = 32

# Gets what is being done, in a few words, and that something is.
Tell = Callable[[str], None]


class Features(NamedTuple):
    """Features and labels of the n pictures of a split that could be decoded; n_bad could not.

    What else of the batches was asked for stands among the labels.
    """

    x: Float[np.ndarray, "n D"]
    labels: dict[str, Int[np.ndarray, " n"]]
    n_bad: int

    @property
    def n(self) -> int:
        return len(self.x)


def extract(
    features_of: Callable[[Mapping[str, Array]], Float[Array, "B D"]],
    batches: Iterable[Mapping[str, np.ndarray]],
    fields: Sequence[str],
    mesh: Mesh,
) -> Features:
    """Features of every picture exactly once, in the order of `batches`; padding and bad pictures left out.

    The device works on one batch while the host fetches the one before. Host memory is the result alone:
    it grows in place. With several processes each gets the features of all.

    Raises:
      UserError: a field is not in the batches, no picture is left, or a feature is not finite.
    """
    x, labels, n_bad = _Rows(), {field: _Rows() for field in fields}, 0
    for out in _one_behind(_dispatched(features_of, batches, fields, mesh)):
        out = multihost.fetch(out)
        keep = out["valid"]
        n_bad += int(out["bad"].sum())
        x.add(_finite(out["x"][keep]))
        for field in fields:
            labels[field].add(out[field][keep])
    if not x.n:
        raise UserError(f"the split to evaluate has no picture that can be decoded ({n_bad} can not)")
    return Features(x.done(), {field: rows.done() for field, rows in labels.items()}, n_bad)


def silent(what: str) -> None:
    """Tells nobody."""


@dataclasses.dataclass(frozen=True)
class Extract:
    """(output, split, limit, fields) -> Features of the labelled pictures; each pass over a split is made once.

    Attributes:
      functions: output -> function of a device batch, with the weights inside.
      batches: (split, limit) -> host batches; a third argument, of those who ask for texts, is how many slots a
        picture has for its captions.
      fields: all label fields of the data.
      tell: called with every batch. An evaluator that computes for long calls it too, every so often: a run
        that says nothing for `config.watchdog_s` is taken for one that hangs.
      tokenizer: of the texts; None where no evaluator needs one.
      batch_size: of texts that are embedded, and of pictures that are made, together.
      network: by which pictures are compared, a `vitjax.evals.generated.Network`; None where none is needed.
      real: what networks made of real pictures, which is the same for every generator.
    """

    functions: Mapping[str, Callable[[Mapping[str, Array]], Float[Array, "B D"]]]
    batches: Callable[..., Iterable[Mapping[str, np.ndarray]]]
    fields: Sequence[str]
    mesh: Mesh
    tell: Tell = silent
    tokenizer: Tokenizer | None = None
    batch_size: int = 256
    done: dict[tuple[str, str, int], Features] = dataclasses.field(default_factory=dict)
    network: Any = None
    real: dict[tuple[str, str, str, int], Features] = dataclasses.field(default_factory=dict)

    def __call__(self, output: str, split: str, limit: int, wanted: Sequence[str]) -> Features:
        key = output, split, limit
        if key not in self.done:
            batches = self.told(split, self.batches(split, limit))
            self.done[key] = extract(self.functions[output], batches, self.fields, self.mesh)
        return _labelled(self.done[key], wanted, split)

    def captioned(self, output: str, split: str, limit: int, captions: int) -> Features:
        """Features of all pictures, with 'text' [n, C, L] and 'text_valid' [n, C] of their first `captions` captions.

        Raises:
          UserError: as `extract`.
        """
        batches = self.told(split, self.batches(split, limit, captions))
        return extract(self.functions[output], batches, ("text", "text_valid"), self.mesh)

    def texts(self, tokens: Int[np.ndarray, "n L"]) -> Float[np.ndarray, "n E"]:
        """What 'text_embed' makes of texts, as `tokenizer.encode` writes them; equal ones are embedded once."""
        distinct, places = np.unique(tokens, axis=0, return_inverse=True)
        found = extract(self.functions["text_embed"], self._text_batches(distinct), (), self.mesh)
        return found.x[places.reshape(-1)]

    def _text_batches(self, tokens: Int[np.ndarray, "n L"]) -> Iterator[dict[str, np.ndarray]]:
        """This process's rows of every batch of texts; the last one is filled up."""
        size = self.batch_size
        rows = sharding.local_rows(self.mesh, size)
        for start in range(0, len(tokens), size):
            self.tell(f"texts from {start:,} of {len(tokens):,}")
            valid = start + rows < len(tokens)
            text = np.where(valid[:, None], tokens[np.minimum(start + rows, len(tokens) - 1)], 0)
            bad = np.full(len(rows), -1, np.int64)
            yield {"text": text.astype(np.int32), "row": rows.astype(np.int32), "valid": valid, "bad_index": bad}

    def titled(self, title: str) -> "Extract":
        """The same, with what it tells under a title."""
        return dataclasses.replace(self, tell=lambda what: self.tell(f"{title}: {what}"))

    def told(self, split: str, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches of a split, each of which is told of."""
        for number, batch in enumerate(batches, 1):
            self.tell(f"split {split!r}, batch {number:,}")
            yield batch


def _labelled(found: Features, fields: Sequence[str], split: str) -> Features:
    """The pictures that have a label (not -1) in all of `fields`."""
    labels = {field: found.labels[field] for field in fields}
    keep = np.all([y >= 0 for y in labels.values()], axis=0)
    if keep.all():
        return found._replace(labels=labels)
    if not keep.any():
        raise UserError(f"no picture of split {split!r} has a label in {', '.join(fields)}")
    return Features(found.x[keep], {field: y[keep] for field, y in labels.items()}, found.n_bad)


def raw_pixels(config_data: Any) -> Callable[[Mapping[str, Array]], Float[Array, "B D"]]:
    """batch -> the evaluation view as plain pixels in 0..1, flattened; at most 32 x 32 x 3 numbers.

    The baseline that a representation has to beat. No normalisation: what an evaluator does to features
    it does to these.
    """
    view = augment.eval_pictures(config_data, min(RAW_PIXELS_PX, config_data.size_px))
    return jax.jit(lambda batch: view(batch).reshape(len(batch["image"]), -1))


def chosen_fields(config: Any, run: Any) -> tuple[str, ...]:
    """The evaluator's label fields.

    Raises:
      UserError: none is asked for, or the data set does not have one of them.
    """
    setting, fields = f"config.evals.{config.name}.fields", tuple(config.fields)
    known = [name for name in run.batch_spec if name == "label" or name.startswith("label/")]
    if not known:
        raise UserError(
            f"{setting}={fields}: the data set has no labels; give data that has them (one folder a class, "
            f"say), or switch the evaluator off with --config.evals.{config.name}.every_steps=-1"
        )
    missing = [field for field in fields if field not in known]
    if missing or not fields:
        wrong = f"there is no {', '.join(missing)}" if missing else "none is given"
        raise UserError(
            f"{setting}={fields}: {wrong}; the data set has {', '.join(known)}: --{setting}=\"('{known[0]}',)\", or "
            f"--config.evals.{config.name}.every_steps=-1 switches the evaluator off"
        )
    return fields


def check_rows(**arrays: Any) -> None:
    """Raises UserError where features and labels given by hand do not go together: x and y in turns, y perhaps None."""
    names = list(arrays)
    for x_name, y_name in zip(names[::2], names[1::2]):
        x, y = np.asarray(arrays[x_name]), arrays[y_name]
        if x.ndim != 2 or not len(x):
            raise UserError(f"{x_name} has shape {x.shape}; it must be [pictures, features]")
        if y is not None and len(y) != len(x):
            raise UserError(f"{x_name} has {len(x)} rows and {y_name} {len(y)} labels; there must be as many")
        if bad := int((~np.isfinite(x)).any(1).sum()):
            raise UserError(f"{x_name}: {bad} of {len(x)} rows hold numbers that are not finite")


def check_classes(labels: Mapping[str, Int[np.ndarray, " n"]], name: str, split: str) -> None:
    """Raises UserError where the training labels of a field leave nothing to tell apart."""
    for field, y in labels.items():
        if y.min() == y.max():
            raise UserError(
                f"config.evals.{name}.fields: all {len(y)} pictures of split {split!r} have one class in "
                f"{field!r}, so there is nothing to tell apart; leave the field out, or check "
                f"config.evals.{name}.train_split and train_examples"
            )


def summary(
    correct: Mapping[str, np.ndarray], test: Features, more: Mapping[str, Mapping[str, float]] | None = None
) -> dict[str, float]:
    """{'accuracy', 'n', 'n_bad'}; with several fields also '<field>/accuracy', 'accuracy' being their mean.

    `more` maps further names to a value for each field.
    """
    per_field = {"accuracy": {field: float(hits.mean()) for field, hits in correct.items()}, **(more or {})}
    metrics: dict[str, float] = {}
    for name, values in per_field.items():
        if len(values) > 1:
            metrics |= {f"{field.removeprefix('label/')}/{name}": v for field, v in values.items()}
        else:
            metrics[name] = next(iter(values.values()))
    metrics["accuracy"] = float(np.mean(list(per_field["accuracy"].values())))
    return {**metrics, "n": test.n, "n_bad": test.n_bad}


def tiled(x: np.ndarray, mesh: Mesh, rows: int) -> Array:
    """x [n, ...] as [tiles, R, ...] on the devices, R (about `rows` a device) split over all of them.

    A loop over tiles then bounds what is alive at a time. The end is padded with zeros; row i of x is row
    i of the flattened result.
    """
    devices = mesh.devices.size
    tiles = max(1, math.ceil(len(x) / (rows * devices)))
    per_tile = devices * math.ceil(len(x) / (tiles * devices))

    def block(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[1].indices(per_tile)
        out = np.zeros((tiles, stop - start, *x.shape[1:]), x.dtype)
        for t in range(tiles):
            part = x[t * per_tile + start : t * per_tile + stop]
            out[t, : len(part)] = part
        return out

    spec = PartitionSpec(None, mesh.axis_names)
    return jax.make_array_from_callback((tiles, per_tile, *x.shape[1:]), NamedSharding(mesh, spec), block)


def mesh_or_all(mesh: Mesh | None) -> Mesh:
    """`mesh`, or one over all devices where there is none (a notebook)."""
    return Mesh(np.array(jax.devices()), ("data",)) if mesh is None else mesh


class _Rows:
    """Rows that arrive in chunks, in one array that grows in place (realloc moves pages, not bytes)."""

    def __init__(self):
        self.n = 0
        self.array: np.ndarray | None = None

    def add(self, rows: np.ndarray) -> None:
        if self.array is None:
            self.array = np.zeros((max(1, len(rows)), *rows.shape[1:]), rows.dtype)
        if self.n + len(rows) > len(self.array):
            room = max(self.n + len(rows), len(self.array) * 5 // 4)
            self.array.resize((room, *rows.shape[1:]), refcheck=False)
        self.array[self.n : self.n + len(rows)] = rows
        self.n += len(rows)

    def done(self) -> np.ndarray:
        self.array.resize((self.n, *self.array.shape[1:]), refcheck=False)
        return self.array


def _dispatched(features_of, batches, fields, mesh) -> Iterator[dict[str, Array]]:
    for batch in batches:
        missing = [field for field in fields if field not in batch]
        if missing:
            known = ", ".join(name for name in batch if name.startswith(("label", "text")))
            raise UserError(f"the pictures have no {missing[0]!r}; there are: {known or 'none'}")
        # Bad pictures travel like the labels, so that several processes need no special case.
        on_device = sharding.put_batch({**batch, "bad": batch["bad_index"] >= 0}, mesh)
        bad, valid = on_device.pop("bad"), on_device["valid"]
        yield {"x": features_of(on_device), "bad": bad, "valid": valid} | {f: on_device[f] for f in fields}


def _one_behind(items: Iterator[Any]) -> Iterator[Any]:
    """`items`, each handed out only once its successor has been made (and so dispatched)."""
    waiting: list[Any] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == 2:
            yield waiting.pop(0)
    yield from waiting


def _finite(x: np.ndarray) -> np.ndarray:
    if not np.isfinite(x).all():
        raise UserError(
            "features that are not finite: the weights have diverged; try a lower config.optim.base_lr"
        )
    return x
