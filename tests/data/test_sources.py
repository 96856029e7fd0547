"""Which source a config means, and the errors for what is not there."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vitjax.data import sources, splits
from vitjax.data.sources.folder import FolderSource
from vitjax.data.sources.parquet import ParquetSource
from vitjax.errors import UserError

COLUMNS = dict(fields=(), image_column="", label_columns=(), text_columns=())


def data(path="", source="auto", builtin=""):
    return SimpleNamespace(source=source, path=str(path), builtin=builtin, mix={}, tfds="", **COLUMNS)


def test_auto_takes_pictures_for_a_folder_and_parquet_files_for_parquet(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / "a.png")
    (tmp_path / "table").mkdir()
    png = (tmp_path / "pictures" / "a.png").read_bytes()
    pq.write_table(pa.table({"image": [png]}), tmp_path / "table" / "train-0.parquet")
    assert isinstance(sources.open_source(data(tmp_path / "pictures"), "train"), FolderSource)
    assert isinstance(sources.open_source(data(tmp_path / "table"), "train"), ParquetSource)
    assert isinstance(
        sources.open_source(data(tmp_path / "table" / "train-0.parquet"), "train"), ParquetSource
    )


def test_no_path_is_an_error_that_says_how_to_name_pictures():
    with pytest.raises(UserError, match="--config.data.path=DIR"):
        sources.open_source(data(), "train")
    with pytest.raises(UserError, match="--config.data.path=DIR"):
        sources.open_source(data(source="folder"), "train")


def test_a_missing_path_is_named_with_what_exists_of_it(tmp_path):
    with pytest.raises(UserError, match=rf"no/such does not exist \({tmp_path} does\)"):
        sources.open_source(data(tmp_path / "no" / "such"), "train")


def test_an_unknown_source_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="'tarballs'.*folder, .*parquet"):
        sources.open_source(data(tmp_path, source="tarballs"), "train")


def test_builtin_pictures_come_without_a_path(tmp_path):
    config = data(builtin="digits")
    config.size_px = 8
    source = sources.open_source(config, "test")
    assert np.shape(source[0]["image"]) == (8, 8, 3)


@pytest.mark.parametrize(
    "name, split",
    [
        ("train-00000-of-00002.parquet", "train"),
        ("val_1.parquet", "validation"),
        ("validation.parquet", "validation"),
        ("Test-1.parquet", "test"),
        ("training.parquet", None),
        ("0000.parquet", None),
    ],
)
def test_a_shard_belongs_to_the_split_that_its_name_begins_with(name, split):
    assert splits.split_of_shard(name) == split


def test_reading_files_and_decoding_imports_no_jax():
    modules = ", ".join(f"vitjax.data.{name}" for name in ("sources.folder", "sources.parquet", "decode"))
    code = f"import sys, {modules}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
