"""Sets of TensorFlow Datasets: what is found, read and refused."""

import io
import pickle
import subprocess
import sys
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vitjax.data.sources import open_source
from vitjax.data.sources import tfds as source_file
from vitjax.errors import UserError


def png(value):
    out = io.BytesIO()
    Image.new("RGB", (2, 2), (value, value, value)).save(out, "PNG")
    return out.getvalue()


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Forty pictures for training and four for validation, with all that a set may have beside them."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        f = tfds.features
        boxes = {"bbox": f.BBoxFeature(), "label": f.ClassLabel(names=["a", "b", "c"])}
        features = dict(
            image=f.Image(), label=f.ClassLabel(names=["cat", "dog"]), file_name=f.Text(), caption=f.Text(),
            captions=f.Sequence({"text": f.Text()}), objects=f.Sequence(boxes),
        )  # fmt: skip
        return tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict(features))

    def _split_generators(self, _):
        return {"train": self._generate_examples(40), "validation": self._generate_examples(4)}

    def _generate_examples(self, count):
        for i in range(count):
            box = {"bbox": tfds.features.BBox(0.0, 0.25, 0.5, 1.0), "label": 2}
            yield i, {
                "image": png(i), "label": -1 if i == 0 else i % 2, "file_name": f"{i}.png", "caption": f"café {i}",
                "captions": [{"text": "x"}, {"text": "y"}], "objects": [box] * (i % 3),
            }  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder in which the set was prepared, as tfds lays it out."""
    root = tmp_path_factory.mktemp("tfds")
    Tiny(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root


@pytest.fixture
def settings(tmp_path):
    def make(path="", tfds="", **changes):
        base = dict(source="auto", path=str(path), tfds=tfds, builtin="", mix={}, image_column="", label_columns=())
        base |= dict(text_columns=(), fields=(), cache_dir=str(tmp_path / "cache"), cache_gb=1.0)
        return SimpleNamespace(**(base | changes))

    return make


def test_records_equal_those_of_tfds_own_reader(prepared, settings):
    source = open_source(settings(prepared, "tiny", fields=("text", "boxes")), "train")
    assert source.class_names == {"label": ("cat", "dog"), "box_label": ("a", "b", "c")}
    builder = tfds.builder_from_directory(prepared / "tiny" / "1.2.0")
    theirs = builder.as_data_source(split="train", decoders={"image": tfds.decode.SkipDecoding()})
    assert len(source) == len(theirs) == 40
    for index in range(40):
        mine, other = source[index], theirs[index]
        assert mine["image"] == other["image"] and mine["label"] == other["label"]
        assert mine["text"] == (other["caption"].decode(),)
        np.testing.assert_array_equal(mine["boxes"], np.reshape(other["objects"]["bbox"], (-1, 4)))
        assert mine["box_label"].tolist() == list(other["objects"]["label"])
        assert source.name(index).endswith(f"({other['file_name'].decode()})")


def test_a_set_is_found_by_its_folder_its_version_and_its_name(prepared, settings, monkeypatch):
    for path in (prepared / "tiny", prepared / "tiny" / "1.2.0"):
        assert len(open_source(settings(path), "val")) == 4
        assert len(open_source(settings(path, "imagenet2012"), "val")) == 4
    assert len(open_source(settings(prepared, "tiny:1.2.0"), "train")) == 40
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(open_source(settings(tfds="tiny"), "train")) == 40
    assert source_file.find(str(prepared), "tiny:9.9.9") is None


def test_of_several_versions_the_newest_is_read_and_configs_must_be_named(tmp_path):
    for folder in ("set/1.9.0", "set/1.10.0", "many/a/1.0.0", "many/b/1.0.0", "one/c/1.0.0"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "dataset_info.json").touch()
    assert source_file.find(str(tmp_path), "set") == str(tmp_path / "set" / "1.10.0")
    assert source_file.find(str(tmp_path), "many/b") == str(tmp_path / "many" / "b" / "1.0.0")
    assert source_file.find(str(tmp_path), "one").endswith("c/1.0.0")
    with pytest.raises(UserError, match="'many' has the configs a, b .* many/a"):
        source_file.find(str(tmp_path), "many")


def test_parts_of_splits_are_splits(prepared, settings):
    whole = open_source(settings(prepared, "tiny"), "train")
    part = open_source(settings(prepared, "tiny"), "train[10:30]")
    assert [part[i]["image"] for i in range(20)] == [whole[i]["image"] for i in range(10, 30)]
    assert part.name(3) == whole.name(13)
    assert len(open_source(settings(prepared, "tiny"), "val[:50%]")) == 2
    with pytest.raises(UserError, match=r"'test' is not in .*'train' \(40\), 'validation' \(4\)"):
        open_source(settings(prepared, "tiny"), "test")
    with pytest.raises(UserError, match=r"'train\[10:' is not in"):
        open_source(settings(prepared, "tiny"), "train[10:")


def test_features_are_chosen_by_the_config(prepared, settings):
    columns = dict(text_columns=("captions/text", "file_name"), fields=("text",))
    source = open_source(settings(prepared, "tiny", **columns), "train[:1]")
    assert len(source[0]["text"]) == 3 and source[0]["text"][:2] == ("x", "y")
    with pytest.raises(UserError, match="label_columns='kind' is no such feature.*label"):
        open_source(settings(prepared, "tiny", label_columns=("kind",)), "train")


def test_a_set_that_is_not_there_says_what_to_do(tmp_path, settings, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"--config.data.path=DIR.*ILSVRC2012.*tfds build imagenet2012 --file_format"):
        open_source(settings(tfds="imagenet2012"), "train")
    with pytest.raises(UserError, match="there is no dataset_info.json"):
        open_source(settings(tmp_path, source="tfds"), "train")


def test_a_set_in_another_form_says_how_to_make_one(tmp_path, settings):
    (tmp_path / "dataset_info.json").touch()
    (tmp_path / "tiny-train.tfrecord-00000-of-00001").touch()
    with pytest.raises(UserError, match=f"tfds convert_format --dataset_version_dir={tmp_path} --out_file"):
        open_source(settings(tmp_path), "train")


def test_a_copy_by_pickle_is_small_and_reads_the_same(prepared, settings):
    source = open_source(settings(prepared, "tiny"), "train")
    data = pickle.dumps(source)
    assert len(data) < 3_000 and pickle.loads(data)[7] == source[7]


def test_a_remote_set_is_copied_by_the_split(prepared, settings, tmp_path):
    url = f"memory://{tmp_path.name}"
    fsspec.filesystem("memory").put(f"{prepared}/tiny/1.2.0", f"{url}/tiny/1.2.0", recursive=True)
    source = open_source(settings(url, "tiny"), "val")
    assert len(source) == 4 and source[0]["image"][:4] == b"\x89PNG"
    assert not list((tmp_path / "cache").rglob("*train.array_record*"))


def test_no_other_framework_is_loaded(prepared):
    code = (
        "import sys; from types import SimpleNamespace; from vitjax.data.sources import tfds\n"
        f"data = SimpleNamespace(path={str(prepared)!r}, tfds='tiny', image_column='', label_columns=(), "
        "text_columns=(), fields=())\n"
        "tfds.make(data, 'train')[0]; sys.exit(bool({'tensorflow', 'torch', 'jax'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
