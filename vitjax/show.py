"""Draws what a picture set holds and what the model will see of it, as sheets of pictures to look at.

    python -m vitjax.show DATA --out=sheets
    python -m vitjax.show --config=configs/mae_vitb.py --config.data.path=DATA --out=sheets --step=100

source.png has pictures of the set, picked at random but always the same ones, with their labels, captions, boxes
and masks; a record that cannot be used says why. With a config there is also views.png: rows of the batch that
training step --step meets, each with the picture as it goes to the device and what augmentation makes of it, by the
same draws as in training. Labels, captions, boxes and masks are found where the set has them.
"""

import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitjax import cli, drawing
from vitjax.config import base_config
from vitjax.data import contents, pipeline, tokenize
from vitjax.data.batches import Batch, order
from vitjax.data.decode import decode
from vitjax.data.examples import BAD, OUTSIDE, whole_mask
from vitjax.data.sources import Source
from vitjax.drawing import Tile
from vitjax.errors import UserError
from vitjax.picture import save_png

COLUMNS = 5


def source_sheet(data: Any, split: str, count: int) -> drawing.Picture:
    """Pictures of the set that `config.data` describes, with all that is known of them.

    Raises:
      UserError: there is no such set or split.
    """
    source, fields = contents.open_whole(data, split)
    picked = np.sort(order(np.arange(min(count, len(source))), len(source), seed=0)).tolist()
    legend = Legend(source.class_names)
    tiles = [_tile(source, index, data.max_pixels, legend) for index in picked]
    there = ", ".join([*pipeline.labels(source), *fields]) or "pictures alone"
    title = f"{split}: {len(picked)} of {len(source):,} records of {source!r}; {there}"
    rows = [tiles[k : k + COLUMNS] for k in range(0, len(tiles), COLUMNS)]
    return drawing.sheet(title, rows, legend.colours)


def views_sheet(config: Any, split: str, step: int, count: int) -> drawing.Picture:
    """The first rows of the batch that training step `step` meets, before and after augmentation.

    Raises:
      UserError: there is no such set or split, or a setting of the pictures does not fit.
    """
    # Here, because the source alone can be looked at without jax.
    from vitjax import experiment

    source, found = contents.open_whole(config.data, split)
    if config.data.crop == "host":  # boxes and masks are of whole pictures
        found = tuple(field for field in found if field == "text")
    config = types.SimpleNamespace(**{**config, "data": contents.with_fields(config.data, found)})
    rows = np.arange(min(count, config.batch_size))
    with experiment.train_loader(config, source, rows)(step - 1, ()) as batches:
        batch = next(batches)
    legend = Legend(source.class_names)
    seen = _views(config, batch, step)
    lines = [
        [
            _row_tile(config.data, source, batch, k, legend),
            *(Tile(drawing.cell(view[k]), drawing.wrapped(name)) for name, view in seen),
        ]
        for k in range(len(rows))
    ]
    # Rows of one view leave room for others beside them.
    abreast = max(1, COLUMNS // len(lines[0]))
    lines = [sum(lines[k : k + abreast], []) for k in range(0, len(lines), abreast)]
    title = (
        f"Step {step:,} of training on {source!r}: rows 0 to {len(rows) - 1} of the batch of {config.batch_size:,}, as "
        f"they go to the device (data.crop={config.data.crop!r}), and beside each what augmentation makes of it"
    )
    return drawing.sheet(title, lines, legend.colours)


class Legend:
    """The classes that were drawn and their colours: one name has one colour, in masks as of boxes."""

    def __init__(self, class_names: Mapping[str, Sequence[str]]):
        self._class_names, self._drawn = class_names, set()
        names = dict.fromkeys(name for field in ("mask", "box_label") for name in class_names.get(field, ()))
        self._numbers = {name: number for number, name in enumerate(names)}

    @property
    def colours(self) -> dict[str, drawing.Colour]:
        """Of the classes that were drawn, in their order."""
        return {name: self._colour(name) for name in sorted(self._drawn, key=self._number)}

    def name(self, field: str, label: int) -> str:
        """What a class is called: its name, or its number where it has none."""
        names = self._class_names.get(field, ())
        return names[label] if 0 <= label < len(names) else str(label)

    def of_mask(self, mask: np.ndarray) -> dict[int, drawing.Colour]:
        """The colours of the classes in a mask; 'background' and what nobody knows have none."""
        names = {label: self.name("mask", label) for label in np.unique(mask).tolist() if label != OUTSIDE}
        shown = {label: name for label, name in names.items() if name != "background"}
        self._drawn.update(shown.values())
        return {label: self._colour(name) for label, name in shown.items()}

    def of_boxes(self, labels: Sequence[int]) -> tuple[list[str], list[drawing.Colour]]:
        """The names and colours of boxes."""
        names = [self.name("box_label", label) for label in labels]
        self._drawn.update(names)
        return names, [self._colour(name) for name in names]

    def _number(self, name: str) -> int:
        return self._numbers[name] if name in self._numbers else int(name)

    def _colour(self, name: str) -> drawing.Colour:
        return drawing.colour(self._number(name))


def _tile(source: Source, index: int, max_pixels: int, legend: Legend) -> Tile:
    """A record, whatever it is."""
    name = source.name(index)
    try:
        record = source[index]
        picture = decode(record["image"], max_pixels)
        mask = record.get("mask")
        if mask is not None:
            mask = whole_mask(mask, picture.shape[:2], max_pixels)
    except BAD as error:
        return drawing.wrong(str(error), name)
    picture = _drawn(picture, mask, record.get("boxes"), record.get("box_label"), legend)
    return Tile(
        picture, (*_labels(record, legend), *_captions(record.get("text", ())), *drawing.ending(name))
    )


def _row_tile(data: Any, source: Source, batch: Batch, k: int, legend: Legend) -> Tile:
    """Row k of a batch, as the device gets it."""
    height, width = batch["size"][k].tolist()
    boxes = labels = None
    if "boxes" in batch:
        valid = batch["box_valid"][k]
        boxes, labels = batch["boxes"][k][valid], batch["box_label"][k][valid]
    mask = batch["mask"][k, :height, :width] if "mask" in batch else None
    picture = _drawn(batch["image"][k, :height, :width], mask, boxes, labels, legend)
    lines = _labels({name: batch[name][k] for name in pipeline.labels(source)}, legend)
    if "text" in batch:
        tokenizer = tokenize.make(data)
        lines += _captions([tokenizer.decode(text) for text in batch["text"][k][batch["text_valid"][k]]])
    lines += drawing.ending(source.name(int(batch["index"][k])))
    if batch["bad_index"][k] >= 0:
        lines += drawing.wrapped(
            f"in place of {source.name(int(batch['bad_index'][k]))}, which cannot be used"
        )
    return Tile(picture, lines)


def _drawn(picture: np.ndarray, mask: Any, boxes: Any, labels: Any, legend: Legend) -> np.ndarray:
    """The picture at the size of a cell, with its mask and boxes."""
    picture = drawing.cell(picture)
    if mask is not None:
        picture = drawing.tinted(picture, mask, legend.of_mask(mask))
    if boxes is not None:
        picture = drawing.boxed(picture, boxes, *legend.of_boxes(labels.tolist()))
    return picture


def _labels(record: Mapping[str, Any], legend: Legend) -> tuple:
    """The labels by name; of several fields each with what it is about."""
    fields = sorted(name for name in record if name.split("/")[0] == "label")
    names = [legend.name(field, int(record[field])) if record[field] >= 0 else "no label" for field in fields]
    if len(fields) > 1:
        names = [f"{field.split('/')[-1]} {name}" for field, name in zip(fields, names)]
    return drawing.wrapped(", ".join(names))


def _captions(texts: Sequence[str]) -> tuple:
    lines = drawing.wrapped(f'"{texts[0].strip()}"') if texts else ()
    return lines + (drawing.wrapped(f"and {len(texts) - 1} more") if len(texts) > 1 else ())


def _views(config: Any, batch: Batch, step: int) -> list[tuple[str, np.ndarray]]:
    """What augmentation makes of the batch: of each view its name and uint8 [B, S, S, 3]."""
    import jax

    from vitjax import augment, loop

    # The step splits its key between the views and the loss.
    key, _ = jax.random.split(loop.step_key(config.seed, step - 1))
    on_device = {name: batch[name] for name in ("image", "size", "row")}
    views = jax.jit(augment.multi_view(config))(on_device, key)["views"]
    shown = [np.asarray(augment.to_uint8(view, config.data.mean, config.data.std)) for view in views]
    return list(zip(augment.view_names(config), shown))


def main(argv: Sequence[str]) -> int:
    """Writes the sheets and says where they are."""
    options = cli.parser("vitjax.show", __doc__)
    options.add_argument("path", nargs="?", metavar="DATA", help="a set, to look at without a config")
    cli.add_config(options)
    options.add_argument("--out", required=True, metavar="DIR", help="where the sheets are written")
    options.add_argument("--split", default="", help="config.data.split by default")
    options.add_argument(
        "--n", type=int, default=20, help="records of source.png; views.png has half as many"
    )
    options.add_argument("--step", type=int, default=1, help="the training step of views.png, from 1")
    values, given = cli.parse(options, argv)
    for name in ("n", "step"):
        if getattr(values, name) < 1:
            raise UserError(f"--{name}={getattr(values, name)} must be 1 or more")
    # The views are few and small: an accelerator is left to the training that may be using it.
    os.environ["JAX_PLATFORMS"] = "cpu"
    config = _config(values.path, given)
    split = values.split or config.data.split
    paths = [save_png(Path(values.out) / "source.png", source_sheet(config.data, split, values.n))]
    if not values.path:
        views = views_sheet(config, split, values.step, -(-values.n // 2))
        paths.append(save_png(Path(values.out) / "views.png", views))
    print("\n".join(map(str, paths)))
    return 0


def _config(path: str | None, config_flags: Sequence[str]) -> Any:
    """The config that was named, or the settings that every experiment has with the path that was.

    Raises:
      UserError: both were, or neither.
    """
    if path is None:
        return cli.load_config(config_flags)
    if any(flag.startswith("--config=") for flag in config_flags):
        raise UserError(f"{path} and --config: with a config, name the set by --config.data.path={path}")
    config = cli.override(base_config(), config_flags)
    config.data.path = path
    return config


if __name__ == "__main__":
    cli.run(main)
