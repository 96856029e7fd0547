"""Networks that pictures are compared by: pixels, Inception-v3 from a file, and runs of vitjax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from test_export import make_run, tiny

import vitjax
from vitjax import feature_networks, trees
from vitjax.errors import UserError
from vitjax.feature_networks import open_network
from vitjax.interop import inception, table
from vitjax.models.classifier import Classifier
from vitjax.models.inception import Inception

CLASSES = 1008


def some_pictures(px, n=2):
    return np.random.default_rng(px).integers(0, 256, (n, px, px, 3), np.uint8)


def seen(network, output, pictures):
    return np.asarray(network.outputs[output](network.variables, jnp.asarray(pictures)))


def test_pixels_are_those_of_an_antialiased_resize():
    network, pictures = open_network("pixels8"), some_pictures(32)
    wanted = [np.asarray(Image.fromarray(x).resize((8, 8), Image.Resampling.BILINEAR)) for x in pictures]
    np.testing.assert_allclose(seen(network, "features", pictures), np.reshape(wanted, (2, -1)) / 255, atol=1.5 / 255)
    assert not network.is_reference and list(network.outputs) == ["features"]


def constant_inception(folder):
    """FID's layout with units that say 0.5 whatever they see, and a classifier with a bias."""
    shape = jax.ShapeDtypeStruct((1, 75, 75, 3), np.float32)
    made = trees.flatten(jax.eval_shape(Classifier(Inception(), CLASSES).init, jax.random.key(0), shape))
    flat = {path: np.full(x.shape, 0.5 if path.endswith("bn/bias") else 0, np.float32) for path, x in made.items()}
    flat["params/head/kernel"] = np.tile(np.arange(CLASSES, dtype=np.float32) / 2048, (2048, 1))
    flat["params/head/bias"] += 7
    save_file(table.write(flat, inception.rows()), folder / "fid.safetensors")
    return folder / "fid.safetensors"


def test_inception_is_opened_and_scores_without_its_bias(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_networks, "SIZE_PX", 75)  # for speed
    network = open_network(f"inception:{constant_inception(tmp_path)}")
    prefix, _, digest = network.name.rpartition("-")
    assert prefix == "inception-fid" and len(digest) == 8 and network.is_reference
    assert list(network.outputs) == ["features", "logits"]
    logits = seen(network, "logits", some_pictures(32))
    np.testing.assert_allclose(logits, np.tile(np.arange(CLASSES) / 2, (2, 1)), rtol=1e-5)


def test_a_run_lends_its_features(tmp_path):
    run = make_run(tmp_path / "mae", tiny("quickstart"))
    network, model = open_network(str(run)), vitjax.load(run)
    pictures = some_pictures(32, n=4)
    np.testing.assert_allclose(seen(network, "features", pictures), model.features(pictures), atol=1e-5)
    weights = trees.flatten(model.variables)
    assert network.name == f"mae-{feature_networks.digest(weights)}" and not network.is_reference
    path = next(iter(weights))
    assert feature_networks.digest({**weights, path: np.asarray(weights[path]) + 1}) not in network.name


@pytest.mark.parametrize(
    "where, match",
    [
        ("", "none is named; give 'pixels8'"),
        ("inception:none.safetensors", "there is no file 'none.safetensors'"),
        ("inception:weights.pth", r"no safetensors file; .*convert_torch\.py --weights=weights\.pth"),
        ("nowhere", "nowhere: there is no such directory"),
    ],
)
def test_what_is_not_there_is_said(where, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").touch()
    with pytest.raises(UserError, match=match):
        open_network(where)
