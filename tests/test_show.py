"""The sheets show what the set holds, and the views that training sees."""

import itertools

import jax
import numpy as np
import pytest
from PIL import Image

from vitjax import augment, cli, drawing, experiment, loop, policies, show
from vitjax.config import Tracked
from vitjax.data import contents, sources
from vitjax.errors import UserError

FORM = ["--config=configs/quickstart.py:tiny", "--config.data.cache_dir={}"]


@pytest.fixture
def tiles(monkeypatch):
    """The tiles of each sheet, row by row."""
    sheets = []
    made = drawing.sheet

    def noting(title, rows, legend):
        sheets.append((title, rows, legend))
        return made(title, rows, legend)

    monkeypatch.setattr(drawing, "sheet", noting)
    return sheets


@pytest.fixture
def form(tmp_path):
    return [flag.format(tmp_path / "cache") for flag in FORM]


def said(tile):
    return " ".join(line for line, _ in tile.lines)


def test_the_views_are_those_of_the_training_step(tmp_path, tiles, form):
    out = ["--n=6", "--step=3", f"--out={tmp_path}"]
    assert show.main([*form, *out]) == 0
    config = Tracked(cli.load_config(form))
    source = sources.open_source(config.data, "train")
    with experiment.train_loader(config, source, np.arange(config.batch_size))(0, ()) as batches:
        batch = next(itertools.islice(batches, 2, None))
    key, _ = jax.random.split(loop.step_key(config.seed, 2))
    trained = augment.train_view(config)({k: batch[k] for k in ("image", "size", "row")}, key)["image"]
    trained = np.asarray(augment.to_uint8(trained, config.data.mean, config.data.std))
    shown = [tile for row in tiles[1][1] for tile in row]
    for k in range(3):
        # Compiled as a whole it may round another way.
        off = np.abs(drawing.cell(trained[k]).astype(int) - shown[2 * k + 1].picture)
        assert off.max() <= 1
    assert {path.name for path in tmp_path.glob("*.png")} == {"source.png", "views.png"}


def test_all_views_of_a_picture_stand_in_its_row(tmp_path, tiles, form):
    config = cli.load_config(form)
    config.augment.views = policies.swav()
    config.augment.views["local"].size_px = 16
    show.views_sheet(Tracked(config), "train", step=1, count=2)
    ((_, rows, _),) = tiles
    assert [len(row) for row in rows] == [9, 9]
    assert [said(tile) for tile in rows[1][1:]] == [f"global {k}" for k in (1, 2)] + [f"local {k}" for k in range(1, 7)]
    assert len({tile.picture.tobytes() for row in rows for tile in row}) == 18


def test_what_is_known_of_a_picture_is_shown_without_being_asked_for(tmp_path, tiles, form):
    config = cli.load_config(form)
    show.source_sheet(config.data, "train", 4)
    ((_, ((tile, *_),), legend),) = tiles
    record = contents.open_whole(config.data, "train")[0]
    names = record.class_names["label/shape"]
    assert any(name in said(tile) for name in names) and '"' in said(tile)
    assert legend and set(legend) <= set(names)


def test_a_folder_is_shown_without_a_config_and_a_bad_file_says_why(tmp_path, tiles):
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("RGB", (20, 10), "red").save(tmp_path / "set" / name / "a.png")
    (tmp_path / "set" / "dog" / "b.png").write_bytes(b"")
    assert show.main([str(tmp_path / "set"), f"--out={tmp_path / 'out'}"]) == 0
    ((title, ((cat, dog, bad),), legend),) = tiles
    assert "3 of 3 records" in title and not legend
    assert said(cat) == "cat cat/a.png" and said(dog) == "dog dog/a.png"
    assert "dog/b.png" in said(bad) and bad.picture.shape == (256, 256, 3)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["source.png"]


def test_a_name_has_one_colour_in_masks_and_of_boxes():
    legend = show.Legend({"mask": ("background", "cat", "dog"), "box_label": ("dog", "cat")})
    of_mask = legend.of_mask(np.array([[0, 1], [2, 255]], np.uint8))
    names, of_boxes = legend.of_boxes([0, 1])
    assert names == ["dog", "cat"] and of_boxes == [of_mask[2], of_mask[1]] and len(of_mask) == 2
    assert list(legend.colours) == ["cat", "dog"]


@pytest.mark.parametrize(
    "argv, match",
    [
        (["data", "--config=configs/quickstart.py"], "--config.data.path=data"),
        (["data", "--n=0"], "--n=0 must be 1 or more"),
        ([], "give one config file"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, argv, match):
    with pytest.raises(UserError, match=match):
        show.main([*argv, f"--out={tmp_path}"])
