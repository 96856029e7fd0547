"""Weights of other libraries as exports: their files are made here, of our own fresh weights in their layout."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_export_transformers import built as built_towers

import vitjax
from vitjax import cli, convert, experiment, export, trees
from vitjax.config import Tracked
from vitjax.errors import UserError
from vitjax.interop import table

CONFIGS = Path(__file__).parents[1] / "configs"
CLASSES = 7


@pytest.fixture(autouse=True)
def few_comparisons(monkeypatch):
    """Each batch that the export compares costs compilations."""
    monkeypatch.setattr(export, "BATCHES", (2,))


def tiny(name, *more):
    return cli.load_config([f"--config={CONFIGS / name}.py:tiny", *more])


def classifier_file(config, file):
    """Fresh weights of a config's classifier as torchvision or timm would save them, and ours."""
    tracked = Tracked(config)
    names = {config.objective.label: tuple(str(k) for k in range(CLASSES))}
    made = experiment.prepare(tracked, convert.NoPictures(names), None)
    draw = np.random.default_rng(0)
    flat = trees.unstack(
        {
            path: draw.uniform(0.5, 1, leaf.shape).astype(np.float32)
            for path, leaf in trees.flatten(
                jax.eval_shape(lambda: made.objective.export(experiment.fresh(made, 0)))
            ).items()
        }
    )
    save_file(table.write(flat, convert.CLASSIFIERS[config.model.name](tracked)), file)
    return flat


@pytest.mark.parametrize("name", ["supervised_resnet50", "supervised_vits"])
def test_a_classifier_becomes_an_export(name, tmp_path):
    flat = classifier_file(tiny(name), tmp_path / "theirs.safetensors")
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(f"kind {k}" for k in range(CLASSES)))
    convert.convert(tiny(name), tmp_path / "theirs.safetensors", tmp_path / "out", classes)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert sorted(stored) == sorted(flat)
    for path, x in flat.items():
        np.testing.assert_array_equal(stored[path], x, err_msg=path)
    model = vitjax.load(tmp_path / "out")
    (names,) = model.class_names.values()
    assert names[0] == "kind 0" and len(names) == CLASSES
    assert model.predict("logits", np.zeros((1, 40, 30, 3), np.uint8)).shape == (1, CLASSES)
    assert "imported" in (tmp_path / "out" / "README.md").read_text().splitlines()[0]


def test_weights_that_do_not_fit_leave_nothing(tmp_path):
    file = tmp_path / "theirs.safetensors"
    classifier_file(tiny("supervised_resnet50"), file)
    with pytest.raises(UserError, match="do not belong to this model; missing: "):
        convert.convert(tiny("supervised_resnet50", "--config.model.depth=34"), file, tmp_path / "out")
    with pytest.raises(UserError, match=r"do not fit the model of the config: batch_stats/backbone/\S+ \(.*\), not \("):
        convert.convert(tiny("supervised_resnet50", "--config.model.width=24"), file, tmp_path / "out")
    with pytest.raises(UserError, match="has 1 names, and the classifier 7 classes"):
        (tmp_path / "one.txt").write_text("one\n")
        convert.convert(tiny("supervised_resnet50"), file, tmp_path / "out", tmp_path / "one.txt")
    with pytest.raises(UserError, match="begin from a config such as"):
        convert.convert(tiny("cifar10_simclr"), file, tmp_path / "out")
    with pytest.raises(UserError, match="tools/convert_torch.py"):
        (tmp_path / "torch.pt").write_bytes(b"PK\x03\x04")
        convert.convert(tiny("supervised_resnet50"), tmp_path / "torch.pt", tmp_path / "out")
    with pytest.raises(UserError, match="there is no file .*nothing; give"):
        convert.convert(tiny("supervised_resnet50"), tmp_path / "nothing", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.txt", "theirs.safetensors", "torch.pt"]


def test_a_directory_of_hugging_face_has_the_last_word_on_sizes(tmp_path):
    made, params = built_towers("siglip", tmp_path / "run", text=dict(vocab_size=259))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    export.write_transformers(made, {"params": params}, 1, theirs)
    config = tiny("siglip_vitb16")
    assert config.model.width != made.config.model.width or config.model.depth != made.config.model.depth
    convert.convert(config, theirs, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for path, x in trees.unstack({k: np.asarray(v) for k, v in trees.flatten({"params": params}).items()}).items():
        np.testing.assert_array_equal(stored[path], x, err_msg=path)
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "both sides resized to\n16 px",
        "the bytes of UTF-8",
        "without punctuation (clean 'canonical')",
        "8, of which the first is 1 and the last 2; 1 fills up",
        "10 * cosine + -10",
    ):
        assert part in card, part
    found = {"pictures": np.zeros((2, 20, 30, 3), np.uint8)}
    code = "".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL))
    exec(code.replace("path/of/this/folder", str(tmp_path / "out")), found)
    assert found["cosines"].shape == (2, 2) and found["features"].shape == (2, 16)
