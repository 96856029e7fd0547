"""The command that draws pictures, and what starts from the weights of a game."""

import json

import jax
import ml_collections
import numpy as np
import pytest
from PIL import Image
from test_export import make_run, tiny

from vitjax import evaluate, experiment, export, sample, trees
from vitjax.config import Tracked
from vitjax.errors import UserError

NAMES = {"label": ("disc", "square", "ring")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a game that knows classes; nothing was trained."""
    return make_run(tmp_path_factory.mktemp("runs") / "gan", tiny("cifar10_biggan"), NAMES)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export.export(run, tmp_path_factory.mktemp("exports") / "gan")


def lines(workdir, n=5, **settings):
    return np.concatenate(sample.sample(str(workdir), n, **settings))


def test_the_same_command_draws_the_same_pictures_of_a_run_and_of_its_export(run, exported):
    pictures = lines(run)
    assert pictures.shape == (5, 32, 32, 3)
    np.testing.assert_array_equal(pictures, lines(run, 9)[:5], err_msg="how many are drawn must not matter")
    assert np.abs(pictures.astype(int) - lines(exported)).max() <= 1
    assert not np.array_equal(pictures, lines(run, seed=1))


def test_a_class_is_named_or_numbered(run):
    ring = lines(run, label="ring")
    np.testing.assert_array_equal(ring, lines(run, label="2"))
    assert not np.array_equal(ring, lines(run, label="disc"))


def test_the_truncation_is_that_of_the_command_and_else_of_the_config(run):
    np.testing.assert_array_equal(lines(run), lines(run, truncation=0.0))
    assert not np.array_equal(lines(run), lines(run, truncation=0.5))


def test_each_line_is_a_way(run):
    pictures = sample.sample(str(run), 13, interpolate=True)
    assert [len(line) for line in pictures] == [8, 8]
    for line in np.asarray(pictures, int):
        steps = np.abs(np.diff(line, axis=0)).mean((1, 2, 3))
        assert steps.max() < np.abs(line[-1] - line[0]).mean()


def test_the_command_writes_a_picture(run, tmp_path, capsys):
    sample.main([f"--workdir={run}", f"--out={tmp_path / 'made' / 'grid.png'}", "--n=3", "--label=square"])
    assert "grid.png" in capsys.readouterr().out
    assert Image.open(tmp_path / "made" / "grid.png").size == (2 * 64 + 6, 2 * 64 + 6)


def test_the_command_that_evaluates_takes_a_game(run, capsys):
    few = [f"--config.evals.fid.{name}=8" for name in ("samples", "eval_examples")]
    evaluate.main([f"--workdir={run}", "--evals=fid", *few])
    assert "fid_like on pixels8" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(n=0), r"--n=0 must be 1 or more"),
        (dict(label="rng"), r"--label=rng: there is no such class.*'ring'.*below 3"),
        (dict(label="3"), r"--label=3: there is no such class"),
        (dict(truncation=-1.0), r"--truncation=-1"),
        (dict(truncation=float("nan")), r"--truncation=nan"),
    ],
)
def test_what_cannot_be_drawn_is_refused(run, settings, message):
    with pytest.raises(UserError, match=message):
        lines(run, **settings)


def test_a_run_without_a_generator_is_refused(tmp_path):
    folder = make_run(tmp_path / "mae", tiny("quickstart"))
    with pytest.raises(UserError, match=r"objective\.name='mae' has no generator"):
        lines(folder)


def test_a_discriminator_starts_a_supervised_run(exported):
    """Its blocks lie one level deeper than a backbone's elsewhere, and are found there."""
    config = tiny("supervised_vits")
    config.model = ml_collections.ConfigDict(tiny("cifar10_biggan").model.to_dict())
    config.init.backbone = str(exported)
    spec = {name: jax.ShapeDtypeStruct((16,), np.int32) for name in ("label", "row")}
    built = experiment.build(Tracked(config), experiment.surroundings(Tracked(config), 64, NAMES, spec))
    given = experiment.given_weights(built)
    state = jax.jit(lambda: experiment.fresh(built, 0, given))()
    source = trees.flatten(experiment.variables(experiment.read(exported)))
    flat = trees.flatten({"params": state.params, **state.extra})
    taken = [path for path in flat if path.split("/")[1] == "backbone"]
    assert any(path.startswith("spectral/") for path in taken)
    for path in taken:
        np.testing.assert_array_equal(
            flat[path], source[path.replace("/backbone/", "/discriminator/backbone/")]
        )


def test_a_player_starts_another_game(exported):
    config = tiny("cifar10_biggan")
    config.init.generator = str(exported)
    spec = {name: jax.ShapeDtypeStruct((16,), np.int32) for name in ("label", "row")}
    built = experiment.build(Tracked(config), experiment.surroundings(Tracked(config), 64, NAMES, spec))
    given = experiment.given_weights(built)
    assert {path.split("/")[1] for path in given} == {"generator"}
    state = jax.jit(lambda: experiment.fresh(built, 1, given))()
    source = trees.flatten(experiment.variables(experiment.read(exported)))
    flat = trees.flatten(state.extra["ema"])
    for path, x in flat.items():
        np.testing.assert_array_equal(x, source[path], err_msg=path)


def test_the_model_card_and_the_config_of_an_export_name_the_game(exported):
    saved = json.loads((exported / "config.json").read_text())
    assert saved["config"]["objective"]["name"] == "biggan" and saved["model"]["ch"] == 4
