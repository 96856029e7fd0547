"""Finds pictures by a description: the best matches of a folder with their scores, as a sheet.

    python -m vitjax.search --workdir=DIR --images=FOLDER "a red bicycle"
    python -m vitjax.search --workdir=DIR --images=FOLDER --index=FOLDER.npz --n=40 --out=found.png "a red bicycle"

DIR is a run or an export that was trained with texts; FOLDER is whatever vitjax reads pictures from, all splits of it.
--index keeps what the model makes of the pictures, so that the next search takes a moment; it is refused for other
pictures, other weights or other settings of the model. A picture that was changed under its old name is not noticed:
remove the index then.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jaxtyping import Float, Int

from vitjax import checksums, cli, devices, drawing, experiment, sharding, trees
from vitjax.config import Tracked, base_config
from vitjax.data import contents, pipeline
from vitjax.data.decode import decode
from vitjax.data.examples import BAD
from vitjax.data.sources import Source, open_source
from vitjax.data.splits import NoSuchSplit
from vitjax.drawing import Tile
from vitjax.errors import UserError
from vitjax.evals import features
from vitjax.experiment import Experiment
from vitjax.model import Model
from vitjax.picture import save_png
from vitjax.progress import Progress

COLUMNS = 5
PER_DEVICE = 64  # pictures that are embedded together
MANY = 2**20  # pictures, from which on faiss is used where it is installed
# What an embedding depends on beside the weights: sections of the config, and how `data` shows pictures.
MODEL = ("model", "text", "towers", "objective")
VIEW = ("size_px", "canvas_px", "resize", "eval_crop_fraction", "eval_aspect", "mean", "std", "max_pixels")


class Index(NamedTuple):
    """What a model makes of the pictures that could be decoded.

    Attributes:
      x: unit vectors.
      records: of all sources in a row, the number of each picture.
      of: stands for the model, its weights and the names of the pictures; see `identity`.
    """

    x: Float[np.ndarray, "n E"]
    records: Int[np.ndarray, " n"]
    of: str


class Pictures:
    """The pictures of all splits, in a row."""

    def __init__(self, sources: Sequence[Source], max_pixels: int):
        self.sources, self._max_pixels = sources, max_pixels
        self._starts = np.cumsum([0, *map(len, sources)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def names(self) -> Iterator[str]:
        """Of all pictures."""
        return (source.name(i) for source in self.sources for i in range(len(source)))

    def name(self, number: int) -> str:
        """What a person needs to find the picture."""
        source, index = self._at(number)
        return source.name(index)

    def tile(self, number: int, score: float) -> Tile:
        """The picture with its score and name, as a sheet shows it."""
        source, index = self._at(number)
        try:
            picture = decode(source[index]["image"], self._max_pixels)
        except BAD as error:
            return drawing.wrong(str(error), source.name(index))
        return Tile(
            drawing.cell(picture), (*drawing.wrapped(f"{score:.3f}"), *drawing.ending(source.name(index)))
        )

    def start(self, source: int) -> int:
        """The number of a source's first picture."""
        return int(self._starts[source])

    def _at(self, number: int) -> tuple[Source, int]:
        source = int(np.searchsorted(self._starts, number, "right")) - 1
        return self.sources[source], int(number) - int(self._starts[source])


def open_pictures(data: Any) -> Pictures:
    """The pictures at `data.path`, of all splits.

    Raises:
      UserError: there are none.
    """
    found, missing = [], None
    for split in contents.SPLITS:
        try:
            found.append(open_source(data, split))
        except NoSuchSplit as error:
            missing = error
    if not found:
        raise missing
    return Pictures(found, data.max_pixels)


def settings(workdir: str | Path, images: str) -> ml_collections.ConfigDict:
    """The run's config with these pictures in place of its own."""
    config = experiment.read_config(workdir)
    asked = dict(
        source="auto", path=images, builtin="", tfds="", fields=(), label_columns=(), image_column=""
    )
    config.data.update(asked)
    config.data.mix = ml_collections.ConfigDict()
    config.mesh = base_config().mesh
    return config


def embed(
    model: Model,
    function: Callable,
    config: Any,
    pictures: Pictures,
    of: str,
    tell: features.Tell = features.silent,
) -> Index:
    """The index of all pictures that can be decoded, by all devices.

    Raises:
      UserError: none can.
    """
    mesh = sharding.make_mesh(config.mesh)
    variables = jax.device_put(model.variables, sharding.replicated(mesh))
    predict, key = jax.jit(function), jax.random.key(0)
    size, records = PER_DEVICE * mesh.devices.size, []

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for place, source in enumerate(pictures.sources):
            made = pipeline.eval_batches(
                source, batch_size=size, rows=sharding.local_rows(mesh, size), fields=(),
                canvas_px=pipeline.canvas_px(config.data), workers=config.data.workers, form=pipeline.form(config.data),
            )  # fmt: skip
            with made:
                for batch in made:
                    records.append(batch["index"][batch["valid"]] + pictures.start(place))
                    tell(f"picture {int(records[-1][-1]) if len(records[-1]) else 0:,} of {len(pictures):,}")
                    yield batch

    with sharding.use(mesh):
        found = features.extract(lambda batch: predict(variables, batch, key), batches(), (), mesh)
    return Index(found.x, np.concatenate(records), of)


def write(index: Index, path: Path) -> None:
    """Keeps the index in a file, which is written as a whole."""
    partial = path.with_name(f".{path.name}.partial.npz")
    np.savez(partial, x=index.x, records=index.records, of=np.array(index.of))
    partial.replace(path)


def read(path: Path, of: str) -> Index:
    """The index in a file.

    Raises:
      UserError: it cannot be read, or is of something else than `of`.
    """
    try:
        with np.load(path, allow_pickle=False) as kept:
            index = Index(kept["x"], kept["records"], str(kept["of"]))
        if index.x.ndim != 2 or index.records.shape != index.x.shape[:1]:
            raise ValueError(f"vectors {index.x.shape} for pictures {index.records.shape}")
    except Exception as error:  # of a damaged file zip, zlib and numpy raise whatever they stumble over
        raise UserError(
            f"--index={path} cannot be read ({type(error).__name__}: {error}); remove it, and it is made again"
        ) from error
    if index.of != of:
        raise UserError(
            f"--index={path} is of other pictures, or of other weights or settings of the model (the run may have gone "
            "on since); remove it, and it is made again, or name another file"
        )
    return index


def nearest(
    x: Float[np.ndarray, "n E"], query: Float[np.ndarray, " E"], count: int
) -> tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """The best scores and their rows, the best first; of equal ones the first (but for faiss, which takes any)."""
    count = min(count, len(x))
    if len(x) >= MANY and (faiss := _faiss()):
        scores, rows = faiss.knn(query[None], x, count, metric=faiss.METRIC_INNER_PRODUCT)
        return scores[0], rows[0]
    scores = x @ query
    rows = np.argsort(-scores, kind="stable")[:count]
    return scores[rows], rows


def _faiss() -> Any:
    """The library, or None where it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def identity(built: Experiment, variables: Any, pictures: Pictures) -> str:
    """What stands for all that an index depends on: weights, what is done with them, and the names of the pictures.

    Not the path of the model: other weights may come to lie there, and the same ones elsewhere.
    """
    config = built.config.to_dict()
    settings = [{name: config[name] for name in MODEL if name in config}, {name: config["data"][name] for name in VIEW}]
    weights = {path: checksums.of_host(np.asarray(x)) for path, x in trees.flatten(variables).items()}
    facts = json.dumps([settings, str(built.run.dtype), weights, list(pictures.names())], sort_keys=True)
    return hashlib.sha256(facts.encode("utf-8", "replace")).hexdigest()


def _make_room(flag: str, file: str) -> None:
    """Makes the folder of a file that is written at the end: a long embedding must not be lost for want of it.

    Raises:
      UserError: the file cannot come to lie there.
    """
    folder = Path(file).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag}={file}: {folder} cannot be made ({error.strerror}); name another file") from error
    if Path(file).is_dir():
        raise UserError(f"{flag}={file} is a folder; name another file")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{flag}={file}: {folder} may not be written to; name another file")


def main(argv: Sequence[str]) -> int:
    """Writes the sheet, and prints the matches."""
    options = cli.parser("vitjax.search", __doc__)
    options.add_argument("query", metavar="TEXT", help="what the pictures should show")
    cli.add_workdir(options, "a run or an export that was trained with texts")
    options.add_argument("--images", required=True, metavar="FOLDER", help="where to search")
    options.add_argument("--n", type=int, default=20, help="matches to show")
    options.add_argument(
        "--out", default="search.png", metavar="FILE.png", help="the sheet (default: %(default)s)"
    )
    options.add_argument(
        "--index", metavar="FILE.npz", help="where what the model makes of the pictures is kept"
    )
    cli.add_allow_cpu(options)
    values, given = cli.parse(options, argv)
    if values.n < 1 or not values.query.strip():
        raise UserError(f"--n={values.n} must be 1 or more, and the text {values.query!r} not empty")
    if values.index and not values.index.endswith(".npz"):
        raise UserError(f"--index={values.index}: the file's name must end in .npz")
    config = cli.override(settings(values.workdir, values.images), given)
    devices.check(values.allow_cpu)
    devices.use_compilation_cache()
    pictures = open_pictures(config.data)
    built = experiment.read(values.workdir, Tracked(config))
    variables = experiment.variables(built)
    model = Model(built, variables)
    query = model.text_embed([values.query])[0]
    _make_room("--out", values.out)
    if values.index:
        _make_room("--index", values.index)
    index = _index(model, built, config, pictures, values.index, identity(built, variables, pictures))
    scores, rows = nearest(index.x, query, values.n)
    found = list(zip(scores.tolist(), index.records[rows].tolist()))
    tiles = [pictures.tile(number, score) for score, number in found]
    title = f'"{values.query}": the best {len(found)} of {len(index.x):,} pictures in {values.images}'
    lines = [tiles[k : k + COLUMNS] for k in range(0, len(tiles), COLUMNS)]
    path = save_png(values.out, drawing.sheet(title, lines, {}))
    print("\n".join([*(f"{score:7.3f}  {pictures.name(number)}" for score, number in found), str(path)]))
    return 0


def _index(model: Model, built: Any, config: Any, pictures: Pictures, file: str | None, of: str) -> Index:
    """The index in the file, or a new one, which the file then keeps."""
    if file and Path(file).exists():
        return read(Path(file), of)
    progress = Progress(total_steps=1, first_step=1, batch_size=1)
    index = embed(
        model, built.objective.predict["image_embed"], config, pictures, of,
        tell=lambda what: progress.doing(f"embedding {what}"),
    )  # fmt: skip
    if len(index.x) < len(pictures):
        progress.say(f"{len(pictures) - len(index.x):,} pictures cannot be decoded and are left out")
    if file:
        write(index, Path(file))
    return index


if __name__ == "__main__":
    cli.run(main)
