import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from safetensors.numpy import load_file

import vitjax
from vitjax import cli, experiment, export, model, sharding, trees
from vitjax.checkpoint import Checkpointer
from vitjax.config import Tracked
from vitjax.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = {f"label/{field}": ("disc", "square") for field in ("shape", "texture", "place", "size")}
NAMES["label/hue"] = tuple(f"hue{i}" for i in range(30))


def tiny(config, *more):
    return cli.load_config([f"--config={CONFIGS / config}.py:tiny", *more])


def make_run(folder, config, class_names=NAMES):
    """A run's directory with one checkpoint, of step 5, as written on eight devices; nothing was trained."""
    spec = {"image": ((16, 32, 32, 3), np.uint8), "size": ((16, 2), np.int32), "row": ((16,), np.int32)}
    spec |= {field: ((16,), np.int32) for field in class_names}
    spec = {name: jax.ShapeDtypeStruct(*x) for name, x in spec.items()}
    config = Tracked(config)
    built = experiment.build(config, experiment.surroundings(config, 64, class_names, spec), folder)
    experiment.write_config(built)
    mesh = sharding.make_mesh(dict(data=1, fsdp=8, tensor=1))
    placed = sharding.shardings(experiment.abstract_state(built), mesh, min_size=64)

    def begin():
        state = experiment.fresh(built, 0)
        moved = jax.tree.map(lambda x: x + 0.01 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), state.params)
        return state._replace(step=state.step + 5, params=moved)

    with Checkpointer(folder / "checkpoints") as checkpointer:
        checkpointer.save(5, jax.jit(begin, out_shardings=placed)())
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of MAE with scanned blocks."""
    config = tiny("quickstart", "--config.model.scan=True")
    folder = make_run(tmp_path_factory.mktemp("runs") / "mae", config)
    rows = [
        {"step": 1, "train/loss": 0.9},
        {"step": 5, "train/loss": 0.75, "eval/knn/accuracy": 0.5, "eval/knn/n": 1003},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_comparisons():
    """Each batch that the export compares costs two compilations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "BATCHES", (2,))
        yield


@pytest.fixture(scope="module")
def exported(run):
    return export.export(run, run.parent / "export")


@pytest.fixture(scope="module")
def trained(run):
    return vitjax.load(run)


@pytest.fixture(scope="module")
def loaded(exported):
    return vitjax.load(exported)


@pytest.fixture(scope="module")
def pictures():
    draw, sizes = np.random.default_rng(1), [(32, 32), (20, 41), (7, 9), (32, 32)]
    return [draw.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def test_export_holds_single_blocks_and_says_how_to_feed_them(exported):
    files = sorted(path.name for path in exported.iterdir())
    assert files == ["README.md", "config.json", "model.safetensors"]
    flat = load_file(exported / "model.safetensors")
    blocks = {part for path in flat for part in path.split("/") if part.startswith("block")}
    assert {"block_00", "block_01"} <= blocks and trees.STACK not in blocks
    assert all(x.dtype == np.float32 for x in flat.values())
    saved = json.loads((exported / "config.json").read_text())
    assert saved["step"] == 5 and saved["run"]["class_names"]["label/shape"] == ["disc", "square"]
    assert saved["preprocess"] == {
        "channels": "RGB", "layout": "BHWC", "size_px": 32, "resize": "bicubic", "antialias": True, "aspect": "keep",
        "resize_short_side_px": 32, "crop": "center", "crop_fraction": 1.0, "value_range": [0.0, 1.0],
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    assert {"pool": "gap", "activation": "gelu", "norm_eps": 1e-6}.items() <= saved["model"].items()
    assert saved["model"]["parameters"] == sum(x.size for x in flat.values())


def test_card_tells_training_results_and_use(exported):
    card = (exported / "README.md").read_text()
    for part in (
        "5 of 2 steps of 16 pictures: 80 seen, 1.2 epochs, last training loss 0.75",
        "knn                             50.0%",
        "1,003",
        "vitjax.load(",
        "hue19, and 10 more",
    ):
        assert part in card, part
    assert "## Texts" not in card


@pytest.mark.parametrize("count", [1, 3, 4])
def test_features_of_the_export_equal_the_runs(trained, loaded, pictures, count):
    a, b = (m.features(pictures[:count]) for m in (trained, loaded))
    assert a.shape == (count, 32) and a.dtype == np.float32 and np.ptp(a) > 0
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_export_loads_in_a_fresh_process_without_the_run(trained, exported, pictures, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.symlink_to(exported)
    np.save(tmp_path / "pictures.npy", np.stack([pictures[0], pictures[3]]))
    code = f"""
import numpy as np, vitjax
model = vitjax.load({str(moved)!r})
np.save({str(tmp_path / "features.npy")!r}, model.features(np.load({str(tmp_path / "pictures.npy")!r})))
import jax
assert len(jax.devices()) == 1
"""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    expected = trained.features([pictures[0], pictures[3]])
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), expected, rtol=0, atol=1e-6)


def test_export_of_an_export_is_the_same(exported, tmp_path):
    again = export.export(exported, tmp_path / "again")
    a, b = (load_file(path / "model.safetensors") for path in (exported, again))
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


def test_scanned_and_looped_models_read_each_other(trained, exported, pictures):
    config = experiment.read_config(exported)
    config.model.scan = False
    looped = experiment.read(exported, Tracked(config))
    features = model.Model(looped, experiment.variables(looped)).features(pictures)
    np.testing.assert_allclose(features, trained.features(pictures), rtol=0, atol=1e-5)


def test_batch_statistics_travel_with_a_resnet(tmp_path):
    config = tiny("supervised_vits")
    config.unlock()
    config.model = ml_collections.ConfigDict(
        dict(name="resnet", depth=18, width=64, stem="cifar", zero_init_residual=True)
    )
    folder = make_run(tmp_path / "run", config, class_names={"label": ("cat", "dog")})
    out = export.export(folder, tmp_path / "out")
    flat = load_file(out / "model.safetensors")
    assert any(path.startswith("batch_stats/backbone/") for path in flat)
    facts = json.loads((out / "config.json").read_text())["model"]
    assert {"pool": "gap", "activation": "relu", "norm_eps": 1e-5}.items() <= facts.items()
    assert vitjax.load(out).predict("logits", np.zeros((2, 40, 40, 3), np.uint8)).shape == (2, 2)


def test_failed_comparison_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_stored", lambda x: np.ascontiguousarray(x * 1.001, np.float32))
    with pytest.raises(RuntimeError, match="features differ from the run's by .*nothing was written"):
        export.export(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_refused(run, exported, tmp_path):
    with pytest.raises(UserError, match=r"--out=.* is there already"):
        export.export(run, exported)
    with pytest.raises(UserError, match=r"--format=onnx is not known; choose from vitjax"):
        export.export(run, tmp_path / "out", "onnx")
    with pytest.raises(UserError, match=r"holds no config\.json"):
        export.export(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=r"--config\.seed=1: an export takes the config of the run"):
        export.main([f"--workdir={run}", f"--out={tmp_path / 'out'}", "--config.seed=1"])
    assert list(tmp_path.iterdir()) == []


def test_features_do_not_depend_on_company_or_order(loaded, pictures):
    together = loaded.features(pictures)
    alone = np.concatenate([loaded.features([picture]) for picture in pictures])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    np.testing.assert_allclose(loaded.features(pictures[::-1])[::-1], together, rtol=0, atol=1e-5)


def test_more_pictures_than_a_batch_are_each_seen_once(loaded, monkeypatch):
    pictures = np.random.default_rng(2).integers(0, 256, (21, 32, 32, 3), np.uint8)
    whole = loaded.features(pictures)
    monkeypatch.setattr(model, "MAX_BATCH", 8)
    np.testing.assert_allclose(loaded.features(pictures), whole, rtol=0, atol=1e-5)
    assert whole.shape == (21, 32) and len(np.unique(whole[:, 0])) == 21


def test_features_are_those_of_the_loaders_eval_batches(loaded, exported, pictures):
    batch = {"image": np.stack([pictures[0], pictures[3]]), "size": np.full((2, 2), 32, np.int32)}
    built = experiment.read(exported)
    features = jax.jit(built.objective.predict["features"])
    expected = features(experiment.variables(built), batch, jax.random.key(0))
    np.testing.assert_allclose(loaded.features(batch["image"]), expected, rtol=0, atol=1e-5)


def test_other_predictions_come_as_trees_of_rows(loaded, pictures):
    grids = loaded.predict("reconstruction", pictures[:1])
    assert sorted(grids) == ["input", "masked", "reconstruction"]
    np.testing.assert_array_equal(grids["input"], pictures[0][None])


def test_no_pictures_have_no_features(loaded):
    assert loaded.features([]).shape == (0, 32)


@pytest.mark.parametrize(
    "pictures, message",
    [
        (np.zeros((2, 8, 8, 3), np.float32), "type float32 must be uint8"),
        (np.zeros((8, 8, 3), np.uint8), r"one is picture\[None\]"),
        (np.zeros((2, 8, 8, 1), np.uint8), r"\(8, 8, 1\) must be \[height, width, 3\]"),
        ([np.zeros((8, 8), np.uint8)], r"\(8, 8\) must be \[height, width, 3\]"),
    ],
)
def test_what_is_no_picture_is_refused(loaded, pictures, message):
    with pytest.raises(UserError, match=message):
        loaded.features(pictures)


def test_a_model_says_what_it_is(loaded):
    assert "mae with vit" in repr(loaded) and "32 px" in repr(loaded) and "features" in repr(loaded)
    assert loaded.class_names["label/shape"] == ("disc", "square")
    with pytest.raises(UserError, match=r"predicts features, reconstruction; it has no 'boxes'"):
        loaded.predict("boxes", np.zeros((1, 8, 8, 3), np.uint8))


def test_pictures_of_many_sizes_need_few_canvases():
    pictures = [np.zeros((h, w, 3), np.uint8) for h in range(33, 257, 16) for w in (40, 48, 200, 256)]
    canvases = {canvas for _, canvas in model._groups(pictures)}
    assert canvases == {(h, w) for h in (48, 64, 96, 128, 192, 256) for w in (48, 256)}
