"""Generators are evaluated on exactly the pictures that were asked for, and the result names the network."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from own_methods import stateful_config
from steps import mesh_of
from test_exact import Digits

from vitjax import evaluate, experiment, feature_networks
from vitjax.config import Tracked, fid_eval, form, inception_score_eval, kid_eval, precision_recall_eval
from vitjax.data import sources
from vitjax.data.digits import DigitsSource
from vitjax.errors import UserError
from vitjax.evals import features, fid, generated, kid

N, PX, SCALE = 103, 16, 0.01


class Few(Digits):
    """The first digits of the test set, whatever the split."""

    def __init__(self, data, split):
        self.records = first_records(data.size_px)


@functools.cache
def first_records(size_px):
    digits = DigitsSource("train", size_px)
    return [digits[i] for i in range(N)]


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    monkeypatch.setattr(sources, "open_source", Few)


@pytest.fixture
def classifier(monkeypatch):
    """A network that sees the mean of each quarter, and classifies by them."""

    def quarters(variables, pictures):
        sides = jnp.asarray(pictures, jnp.float32).reshape(-1, 2, PX // 2, 2, PX // 2, 3)
        return sides.mean((2, 4, 5)).reshape(len(pictures), 4) * variables["scale"]

    outputs, variables = dict(features=quarters, logits=quarters), {"scale": np.float32(SCALE)}
    network = generated.Network("quarters-0", outputs, variables, is_reference=True)
    monkeypatch.setattr(feature_networks, "open_network", lambda where: network)


def config_of(batch_size, **evals):
    config = stateful_config.get_config()
    config.batch_size, config.data.size_px, config.data.canvas_px = batch_size, PX, PX
    config.data.eval_crop_fraction = 1.0
    config.evals = ConfigDict(evals or all_evals())
    return config


def all_evals(**changes):
    makers = (fid_eval, kid_eval, inception_score_eval, precision_recall_eval)
    shared = dict(eval_split="test", baselines=()) | changes
    return {m.__name__.removesuffix("_eval"): m(**shared) for m in makers}


def pictures():
    return np.stack([record["image"] for record in first_records(PX)])


def copier(shift):
    """A generator whose picture number i is the real one number i, modulo their number, brighter by `shift`."""

    def generate(variables, batch, key):
        return jnp.clip(variables["pictures"][batch["row"] % N].astype(jnp.int32) + shift, 0, 255).astype(jnp.uint8)

    return generate


def measured(config, devices=1, shift=0, predict=None, **more):
    config, mesh = Tracked(config), mesh_of((1, devices, 1))
    built = experiment.prepare(config, sources.open_source(config.data, "train"), None)
    built = built._replace(objective=built.objective._replace(predict=predict or {"generate": copier(shift)}))
    splits = evaluate.Splits(config, mesh)
    evaluations = evaluate.prepare(built, splits)
    config.refuse_unread(["config.evals"])
    return evaluate.evaluate(built, evaluations, {"pictures": pictures()}, splits, mesh, **more)


def test_a_generator_of_the_real_pictures_is_perfect(classifier):
    numbers = measured(config_of(16, **all_evals(samples=N)), devices=8)
    assert abs(numbers["eval/fid/fid"]) < 1e-6
    assert (numbers["eval/precision_recall/precision"], numbers["eval/precision_recall/recall"]) == (1, 1)
    assert numbers["eval/inception_score/inception_score"] == numbers["eval/inception_score/inception_score_of_real"]
    assert numbers["eval/inception_score/inception_score"] > 1.01
    assert numbers["eval/kid/kid"] < 0, "across the sets each picture meets itself, within them not"


@pytest.mark.parametrize("batch_size, devices", [(8, 1), (16, 8), (150, 2), (250, 1)])
def test_every_number_is_drawn_once_for_any_batch_size_and_device_count(classifier, batch_size, devices):
    """150 pictures, the first 47 twice: a set that no other number, order or padding gives."""
    numbers = measured(config_of(batch_size, **all_evals(samples=150)), devices, shift=20)
    brighter = np.clip(pictures().astype(int) + 20, 0, 255)[np.arange(150) % N]
    seen = [SCALE * x.reshape(-1, 2, 8, 2, 8, 3).mean((2, 4, 5)).reshape(-1, 4) for x in (brighter, pictures())]
    np.testing.assert_allclose(numbers["eval/fid/fid"], fid.frechet(*map(fid.moments, seen)), rtol=1e-4)
    expected = list(kid.estimates(*seen, subsets=100, subset_size=1000))
    np.testing.assert_allclose(numbers["eval/kid/kid"], np.mean(expected), rtol=1e-3)
    np.testing.assert_allclose(numbers["eval/kid/kid_std"], np.std(expected), rtol=1e-3)
    for name in ("fid", "kid", "inception_score", "precision_recall"):
        assert [numbers[f"eval/{name}/{n}"] for n in ("n", "n_real", "n_bad")] == [150, N, 0]
        assert numbers[f"eval/{name}/features/quarters-0"] == 4


def test_real_pictures_are_looked_at_once_for_all_evaluators_and_baselines(classifier, monkeypatch):
    calls = []
    extract = features.extract
    monkeypatch.setattr(features, "extract", lambda *args: calls.append(args) or extract(*args))
    evals = all_evals(samples=40, baselines=("random_init",))
    del evals["inception_score"]
    monkeypatch.setattr(experiment, "fresh", lambda *_: {"pictures": jnp.asarray(255 - pictures())})
    monkeypatch.setattr(evaluate.experiment, "fresh", experiment.fresh)
    config = config_of(64, **evals)
    original = experiment.prepare

    def with_plain_export(*args):
        built = original(*args)
        return built._replace(objective=built.objective._replace(export=lambda state: state))

    monkeypatch.setattr(experiment, "prepare", with_plain_export)
    numbers = measured(config)
    assert len(calls) == 3, "the real ones, the made ones, and those of the fresh generator"
    assert numbers["eval/fid/fid"] < numbers["eval/fid/random_init/fid"]
    shown = evaluate.table(numbers)
    assert "fid: fid on quarters-0" in shown and "precision_recall: recall on quarters-0" in shown
    assert f"{numbers['eval/fid/random_init/fid']:.4g}" in shown and "accuracy" not in shown


def test_on_other_features_it_is_not_called_fid():
    numbers = measured(config_of(64, fid=fid_eval(eval_split="test", samples=N, baselines=())))
    assert "eval/fid/fid" not in numbers and abs(numbers["eval/fid/fid_like"]) < 1e-6
    assert numbers["eval/fid/features/pixels8"] == 8 * 8 * 3
    assert "fid: fid_like on pixels8" in evaluate.table(numbers)


def test_what_is_being_done_is_told(classifier):
    told = []
    measured(config_of(64, **all_evals(samples=70)), tell=told.append)
    for wanted in ("fid: split 'test', batch 1", "fid: drawing pictures from 64 of 70", "kid: subset 100"):
        assert wanted in told


@pytest.mark.parametrize(
    "evals, predict, match",
    [
        (dict(fid=fid_eval(samples=1)), None, r"config\.evals\.fid\.samples=1 must be 2 or more"),
        (dict(fid=fid_eval(features="")), None, r"config\.evals\.fid\.features='': none is named; give 'pixels8'"),
        (dict(fid=fid_eval(features="/nowhere")), None, r"fid\.features='/nowhere': /nowhere: there is no such"),
        (dict(fid=fid_eval(baselines=("raw_pixels",))), None, r"fid\.baselines=.*leave 'raw_pixels' out"),
        (dict(fid=fid_eval()), {"features": copier(0)}, r"config\.evals\.fid needs generate"),
        (
            dict(inception_score=inception_score_eval(features="pixels8")),
            None,
            r"inception_score\.features='pixels8': inception_score needs logits, and this network has features",
        ),
        (dict(kid=kid_eval(subset_size=1)), None, r"subset_size=1 must be at least 1 and 2"),
        (dict(precision_recall=precision_recall_eval(k=0)), None, r"k=0 must be at least 1"),
        (dict(precision_recall=precision_recall_eval(eval_examples=3)), None, r"eval_examples=3 must be 4 or more"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_computed(evals, predict, match):
    with pytest.raises(UserError, match=match):
        measured(config_of(8, **evals), predict=predict)


def test_the_tiny_form_draws_few():
    config = config_of(8)
    config.model.name = "none"
    small = form(config, "tiny")
    assert small.evals.fid.samples == 32 and small.evals.kid.subsets == 2
