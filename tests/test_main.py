"""Whole runs through the command line's own door."""

import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from vitjax import checkpoint, cli, evaluate, experiment
from vitjax import main as main_module
from vitjax.config import Tracked
from vitjax.data import sources
from vitjax.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
TINY = [
    "--config.batch_size=16",
    "--config.log.every_steps=1",
    "--config.mesh.fsdp=1",
    "--config.mesh.data=-1",
]


def flags(config, *more):
    return [f"--config={CONFIGS / config}.py:tiny", *TINY, *more]


def run(workdir, config, *more, stop=lambda: False):
    given = flags(config, *more)
    return main_module.train(cli.load_config(given), workdir, given=cli.keys(given), stop=stop)


def metrics(workdir):
    return [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]


def weights(workdir):
    return checkpoint.read_variables(workdir, ("params", "extra", "opt"))


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("VITJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


# A run takes half a minute: of the methods that tests/objectives/ runs on every backbone, some.
RUN = {
    "quickstart", "mae_vitb", "supervised_vits", "supervised_resnet50", "cifar10_byol", "swav_r50", "scenes_clip",
    "scenes_dcgan",
}  # fmt: skip


@pytest.mark.parametrize("config", sorted(path.stem for path in CONFIGS.glob("*.py")))
def test_every_config_has_a_tiny_form_whose_step_can_be_traced(config):
    c = Tracked(cli.load_config(flags(config)))
    built = experiment.prepare(c, sources.open_source(c.data, c.data.split), None)
    state = jax.eval_shape(lambda: experiment.fresh(built, 0))
    after, metrics = jax.eval_shape(built.objective.update, state, built.run.batch_spec, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert {"loss", "grad_norm"} <= {name.split("/")[-1] for name in metrics}


@pytest.mark.parametrize("config", sorted(RUN))
def test_tiny_forms_run(config, tmp_path):
    # A probe of a baseline takes as long as one of the run: one config has them.
    probed = config != "quickstart" and "linear" in cli.load_config(flags(config)).evals
    assert run(tmp_path, config, *(["--config.evals.linear.baselines=()"] if probed else []))
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2]
    assert all(np.isfinite(row["train/loss"]) and row["train/skipped"] == 0 for row in rows)
    assert checkpoint.latest_step(tmp_path / "checkpoints") == 2
    for name, settings in experiment.read_config(tmp_path).evals.items():
        assert rows[-1][f"eval/{name}/n"] == 32
        for baseline in settings.baselines:
            figures = {k: x for k, x in rows[-1].items() if k.startswith(f"eval/{name}/{baseline}/")}
            assert figures and np.isfinite(list(figures.values())).all()
            assert all(0 <= x <= 1 for k, x in figures.items() if k.endswith("/accuracy"))


def folder_of_pictures(path, number=24):
    rng = np.random.default_rng(0)
    for i in range(number):
        file = path / ("cat", "dog")[i % 2] / f"{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(file)


def test_broken_files_are_listed_once_and_never_stop_a_run(tmp_path):
    pictures = tmp_path / "pictures"
    folder_of_pictures(pictures)
    (pictures / "cat" / "002.png").write_bytes(b"")
    whole = (pictures / "dog" / "005.png").read_bytes()
    (pictures / "dog" / "005.png").write_bytes(whole[: len(whole) // 2])
    more = [f"--config.data.path={pictures}", "--config.total_steps=4"]
    workdir = tmp_path / "run"
    asked = iter(range(1, 100))
    run(workdir, "mae_vitb", *more, stop=lambda: next(asked) == 2)
    run(workdir, "mae_vitb", *more)
    bad = [json.loads(line) for line in (workdir / "bad_records.jsonl").read_text().splitlines()]
    assert sorted(Path(row["name"]).name for row in bad) == ["002.png", "005.png"]
    assert all(row["reason"] for row in bad)


def test_supervised_training_learns_from_a_folder_of_classes_and_starts_from_a_run(tmp_path):
    pictures = tmp_path / "pictures"
    for split in ("train", "test"):
        folder_of_pictures(pictures / split)
    same = ["--config.model.class_token=True", "--config.model.pool=cls"]
    same += ["--config.data.mean=(0.485, 0.456, 0.406)", "--config.data.std=(0.229, 0.224, 0.225)"]
    run(tmp_path / "mae", "mae_vitb", "--config.model.scan=False")
    more = [f"--config.data.path={pictures}", f"--config.init.backbone={tmp_path / 'mae'}"]
    run(tmp_path / "fine", "supervised_vits", *same, *more, "--config.optim.base_lr=1e-12")
    assert experiment.read(tmp_path / "fine").run.class_names == {"label": ("cat", "dog")}
    assert metrics(tmp_path / "fine")[-1]["eval/accuracy/n"] == 24
    source, target = weights(tmp_path / "mae"), weights(tmp_path / "fine")
    for path, x in target.items():
        if path.startswith("params/backbone/"):
            np.testing.assert_allclose(x, source[path], atol=1e-6, err_msg=path)


def test_a_run_that_began_from_other_weights_goes_on_by_the_same_command(tmp_path):
    run(tmp_path / "first", "mae_vitb")
    same = [tmp_path / "second", "mae_vitb", f"--config.init.backbone={tmp_path / 'first'}"]
    assert not run(*same, stop=lambda: True)
    assert run(*same)


@pytest.mark.parametrize(
    "more, message",
    [
        (["--config.model.patch_px=15"], r"patch_px=15.*32"),
        (["--config.batch_size=12"], r"config\.batch_size=12.*8"),
        (["--config.data.path=/nowhere/at/all"], r"/nowhere/at/all"),
        (["--config.objective.name=mea"], r"objective\.name='mea'.*did you mean 'mae'"),
        (["--config.model.name=vti"], r"model\.name='vti' cannot be masked; use 'vit'"),
        (["--config.mesh.fsdp=3"], r"config\.mesh\.fsdp=3"),
        (["--config.optim.name=adam"], r"config\.optim\.name='adam'.*adamw"),
        (["--config.optim.momentum=0.5"], r"config\.optim\.momentum"),
        (["--config.dtype=float16"], r"config\.dtype='float16'"),
        (["--config.total_steps=0"], r"total_steps=0"),
        (["--config.init.backbone=/nowhere"], r"/nowhere"),
        (["--config.total_epochs=2"], r"config\.total_epochs"),
        (["--config.evals.knn.eval_split=tset"], r"tset"),
        (["--config.evals.knn.fields=('label/color',)"], r"config\.evals\.knn\.fields.*label/color"),
    ],
)
def test_bad_input_is_refused_before_any_computation(tmp_path, monkeypatch, more, message):
    for name in ("knn", "linear"):
        importlib.import_module(f"vitjax.evals.{name}")  # they have jitted functions, made when they are loaded
    monkeypatch.setattr(jax, "jit", lambda *_, **__: pytest.fail("something was computed"))
    with pytest.raises(UserError, match=message):
        run(tmp_path, "quickstart", *more)
    assert not list(tmp_path.iterdir())


def test_a_crop_that_no_view_makes_is_refused_before_any_computation(tmp_path):
    theirs = r"config\.augment\.crop_area=\(0\.5, 1\.0\).* set config\.augment\.views\.view\.crop_area$"
    with pytest.raises(UserError, match=theirs):
        run(tmp_path, "cifar10_simclr", "--config.augment.crop_area=(0.5,1.0)")
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        run(tmp_path / "run", "mae_vitb", f"--config.data.path={tmp_path / 'empty'}")


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run(tmp_path, "quickstart")
    with pytest.raises(UserError, match=r"began with config\.model\.width=32, not 64.*--workdir"):
        run(tmp_path, "quickstart", "--config.model.width=64", "--config.total_steps=3")


def test_a_run_whose_pictures_changed_is_refused_unless_that_is_meant(tmp_path):
    """With one picture more all that follows would have another order."""
    pictures = tmp_path / "pictures"
    folder_of_pictures(pictures)
    given = flags("mae_vitb", f"--config.data.path={pictures}")
    main_module.train(cli.load_config(given), tmp_path / "run")
    folder_of_pictures(pictures, number=25)
    longer = cli.load_config([*given, "--config.total_steps=3"])
    with pytest.raises(UserError, match=r"began with pictures=24, not 25;.*--changed=pictures"):
        main_module.train(longer, tmp_path / "run")
    assert main_module.train(longer, tmp_path / "run", changed=["pictures"])
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert history[-1]["changed"] == {"config.total_steps": "2 -> 3", "pictures": "24 -> 25"}


def test_a_setting_that_is_meant_to_change_is_named(tmp_path):
    run(tmp_path, "mae_vitb")
    given = flags("mae_vitb", "--config.total_steps=3", "--config.optim.weight_decay=0.1")
    with pytest.raises(UserError, match=r"weight_decay=0.05, not 0.1;.*--changed=config\.optim\.weight_decay"):
        main_module.train(cli.load_config(given), tmp_path)
    with pytest.raises(UserError, match=r"--changed=config\.optim\.decay: there is no such setting"):
        main_module.train(cli.load_config(given), tmp_path, changed=["config.optim.decay"])
    assert main_module.train(cli.load_config(given), tmp_path, changed=["config.optim.weight_decay"])


def test_a_finished_run_goes_on_when_it_is_made_longer(tmp_path):
    assert run(tmp_path, "mae_vitb")
    assert run(tmp_path, "mae_vitb")  # nothing left to do
    assert run(tmp_path, "mae_vitb", "--config.total_steps=3")
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3]


def test_an_unlabelled_run_is_evaluated_on_labelled_pictures(tmp_path, capsys):
    folder_of_pictures(tmp_path / "unlabelled" / "all")
    run(tmp_path / "run", "mae_vitb", f"--config.data.path={tmp_path / 'unlabelled' / 'all' / 'cat'}")
    for split in ("train", "test"):
        folder_of_pictures(tmp_path / "labelled" / split)
    given = [f"--config.data.path={tmp_path / 'labelled'}", "--config.evals.knn.k=3"]
    evaluate.main([f"--workdir={tmp_path / 'run'}", *given, "--config.batch_size=8"])
    shown = capsys.readouterr().out
    assert "knn" in shown and "linear" in shown and "24" in shown
    with pytest.raises(UserError, match=r"config\.checkpoint\.keep"):
        evaluate.main([f"--workdir={tmp_path / 'run'}", *given, "--config.checkpoint.keep=5"])


def test_a_run_can_be_read_without_its_data(tmp_path):
    run(tmp_path, "quickstart")
    built = experiment.read(tmp_path)
    variables = experiment.variables(built)
    shapes = jax.tree.map(lambda x: x.shape, built.run.batch_spec)
    batch = {name: np.zeros((2, *shape[1:]), np.uint8) for name, shape in shapes.items() if name == "image"}
    batch["size"] = np.full((2, 2), 32, np.int32)
    features = built.objective.predict["features"](variables, batch, jax.random.key(0))
    assert features.shape == (2, built.config.model.width) and features.dtype == np.float32
