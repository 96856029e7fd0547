"""An experiment: config, surroundings and objective put together, and found again in what a run left.

A run's directory and an export both hold `config.json`: the resolved config and what the method was told of
its surroundings. That is enough to build the objective again without the data, on any machine.
"""

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath
from jaxtyping import Int

from vitjax import checkpoint, devices, names, trees
from vitjax.config import Tracked
from vitjax.data import pipeline, vocabulary_files
from vitjax.errors import UserError
from vitjax.objective import Objective, Run, Tokens
from vitjax.workdir import is_remote, opened

DTYPES = {"bfloat16": jnp.bfloat16, "float32": jnp.float32}
FORMAT = 1
FILE = "config.json"
WEIGHTS = "model.safetensors"
KEY_PREPARE = 3  # of what is measured before sampling
# What makes other features of the same weights, and leaves no trace in their names and shapes.
TRACELESS = {"model": ("activation", "norm_eps", "heads", "posemb", "stem"), "data": ("mean", "std")}
# What may differ between the parts of one run.
MAY_CHANGE = (
    "total_steps", "total_epochs", "log/", "alarms/", "evals/", "mesh/", "checkpoint/", "profile/", "init/", "dtype",
    "data/path", "data/tokenizer", "data/workers", "data/cache_dir", "data/max_bad_fraction", "nonfinite",
    "max_rewinds", "grace_s", "watchdog_s", "preempted_exit_code",
)  # fmt: skip


class Experiment(NamedTuple):
    """What a config means, built.

    Attributes:
      config: as resolved.
      run: the method's surroundings.
      objective: what is learned.
      path: the run's directory or the export, remote or not; a run writes to its local mirror. None before
        there is one.
    """

    config: Tracked
    run: Run
    objective: Objective
    path: Path | epath.Path | None = None


def build(config: Tracked, run: Run, path: Path | epath.Path | None = None) -> Experiment:
    """The experiment of a config.

    Raises:
      UserError: a name is not known or a value does not fit.
    """
    objective = names.find("objectives", config.objective.name, "config.objective.name").make(config, run)
    return Experiment(config, run, objective, path)


def title(config: Any) -> str:
    """'mae with vit'; the method alone where it has no choice of models, as one from outside may not."""
    return config.objective.name + (f" with {config.model.name}" if "name" in tuple(config.model) else "")


def prepare(
    config: Tracked, source: Any, path: Path | None, form: pipeline.Form | None = None
) -> Experiment:
    """The experiment of a config on the pictures of `source`, to live in the directory `path`.

    Args:
      form: the slots of a picture's fields, where they are not those of `config.data`.
    """
    data = config.data
    form = pipeline.form(data) if form is None else form
    spec = pipeline.batch_spec(
        source,
        batch_size=config.batch_size,
        canvas_px=pipeline.canvas_px(data),
        crop=data.crop,
        size_px=data.size_px,
        fields=pipeline.fields(data, source),
        form=form,
    )
    shapes = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in spec.items()}
    run = surroundings(config, len(source), source.class_names, shapes)
    if "text" in data.fields:
        run = run._replace(tokens=Tokens(*(getattr(form.tokenizer, field) for field in Tokens._fields)))
    return build(config, run, path)


def surroundings(config: Tracked, num_examples: int, class_names: Mapping, batch_spec: Mapping) -> Run:
    """What the config and the data say to the method.

    Raises:
      UserError: the run has no length, or a name or number does not fit.
    """
    if config.batch_size < 1:
        raise UserError(f"config.batch_size={config.batch_size} must be at least 1")
    steps_per_epoch = num_examples / config.batch_size
    steps = config.total_steps
    # Read only where it counts, so that a length that has no effect is refused like any such setting.
    epochs = config.total_epochs if steps is None else None
    if steps is None and epochs is None:
        raise UserError(
            "neither config.total_steps nor config.total_epochs is set: add --config.total_epochs=100, say"
        )
    total = steps if steps is not None else math.ceil(epochs * steps_per_epoch)
    if total < 1:
        raise UserError(f"config.total_steps={steps}, config.total_epochs={epochs}: the run has no steps")
    return Run(total, steps_per_epoch, config.batch_size, batch_spec, class_names, _dtype(config.dtype))


def _dtype(name: str) -> Any:
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in DTYPES:
        raise UserError(f"config.dtype={name!r} must be 'auto', 'bfloat16' or 'float32'")
    return DTYPES[name]


def _host_crop(config: Any) -> dict[str, tuple[float, float]]:
    """What the loader crops by; read only if it does, so that a setting that nothing else reads is refused."""
    if config.data.crop != "host":
        return dict(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0))
    return dict(crop_area=config.augment.crop_area, crop_aspect=config.augment.crop_aspect)


def train_loader(
    config: Any, source: Any, rows: Int[np.ndarray, " rows"]
) -> Callable[..., pipeline.Batches]:
    """(start_step, left_out) -> these rows of the training batches from there on."""
    data = config.data
    settings = dict(
        batch_size=config.batch_size,
        rows=rows,
        seed=config.seed,
        canvas_px=pipeline.canvas_px(data),
        crop=data.crop,
        size_px=data.size_px,
        **_host_crop(config),
        resize=data.resize,
        workers=data.workers,
        fields=pipeline.fields(data, source),
        form=pipeline.form(data),
    )
    return lambda start_step, left_out: pipeline.train_batches(
        source, start_step=start_step, left_out=left_out, **settings
    )


def to_json(experiment: Experiment) -> dict[str, Any]:
    """What `config.json` holds."""
    run = experiment.run
    return {
        "format": FORMAT,
        "config": experiment.config.to_dict(),
        "run": {
            "total_steps": run.total_steps,
            "steps_per_epoch": run.steps_per_epoch,
            "batch_size": run.batch_size,
            "batch_spec": {k: [list(s.shape), str(s.dtype)] for k, s in run.batch_spec.items()},
            "class_names": {k: list(v) for k, v in run.class_names.items()},
            "dtype": jnp.dtype(run.dtype).name,
            "tokens": run.tokens and run.tokens._asdict(),
        },
    }


def write_config(experiment: Experiment) -> None:
    """Writes `config.json` and the tokenizer's files into the experiment's directory, on the first process."""
    if jax.process_index():
        return
    experiment.path.mkdir(parents=True, exist_ok=True)
    partial = experiment.path / f"{FILE}.partial"
    partial.write_text(json.dumps(to_json(experiment), indent=1))
    partial.replace(experiment.path / FILE)
    keep_tokenizer(experiment, experiment.path)


def keep_tokenizer(experiment: Experiment, folder: Path) -> None:
    """Copies the files of the tokenizer to where `read_config` finds them, if the model has texts."""
    if experiment.run.tokens is not None:
        vocabulary_files.keep(experiment.config.data.tokenizer, folder)


def changes(experiment: Experiment, meant: Sequence[str] = ()) -> dict[str, str]:
    """Setting -> 'before -> now', of what differs from the config that the run in the experiment's directory has.

    A run's length, its log, evaluators, mesh and loader may change; whatever else does would make the rest
    of the run another experiment, unless the user says that it is `meant` ('config.a.b'). 'pictures' and
    'classes' stand for the data: with one picture more all later epochs have another order. 'tokens' stands for what
    is in the tokenizer's files, wherever they are.

    Raises:
      UserError: something else differs, or `meant` names a setting that there is not.
    """
    if not (experiment.path / FILE).is_file():
        return {}
    before, now = _settings(_read_file(experiment.path)), _settings(json.loads(json.dumps(to_json(experiment))))
    known = {_key(path): path for path in sorted({**before, **now})}
    for key in meant:
        if key not in known:
            raise UserError(f"--changed={key}: there is no such setting{names.nearest(key, known)}")
    differ = {key: path for key, path in known.items() if before.get(path) != now.get(path)}
    refused = [key for key, path in differ.items() if not path.startswith(MAY_CHANGE) and key not in meant]
    if refused:
        listed = "; ".join(f"{key}={before.get(differ[key])}, not {now.get(differ[key])}" for key in refused)
        raise UserError(
            f"the run in {experiment.path} began with {listed}; give the same settings and pictures to go on, or "
            f"--changed={','.join(refused)} if that is meant, or another --workdir for a new run (config.init "
            "starts one from this run's weights)"
        )
    return {key: f"{before.get(path)} -> {now.get(path)}" for key, path in differ.items()}


def _settings(saved: Mapping[str, Any]) -> dict[str, str]:
    """Path -> text of all that makes a run what it is: its config, what its data are, and the type it computes in."""
    run = saved["run"]
    data = {"pictures": round(run["steps_per_epoch"] * run["batch_size"]), "classes": run["class_names"]}
    data["tokens"] = run.get("tokens")
    facts = {name: json.dumps(value) for name, value in data.items()}
    # As resolved: 'auto' is another type on another machine.
    return trees.flatten(_tuples_as_text(saved["config"])) | facts | {"dtype": json.dumps(run["dtype"])}


def _key(path: str) -> str:
    """What the user calls it."""
    return path if path in ("pictures", "classes", "tokens") else f"config.{path.replace('/', '.')}"


def read_config(path: str | Path) -> ml_collections.ConfigDict:
    """The resolved config that a run's directory or an export holds; its tokenizer is the copy that is kept there."""
    config = ml_collections.ConfigDict(_tuples(_read_file(path)["config"]))
    config.data.tokenizer = vocabulary_files.kept(config.data.tokenizer, path)
    return config


def read(path: str | Path, config: Tracked | None = None) -> Experiment:
    """The experiment that a run's directory or an export holds.

    Args:
      config: used instead of the saved one, for a change of its settings.

    Raises:
      UserError: there is none at `path`.
    """
    config = Tracked(read_config(path)) if config is None else config
    run = _tuples(_read_file(path)["run"])
    spec = {k: jax.ShapeDtypeStruct(tuple(s), np.dtype(d)) for k, (s, d) in run["batch_spec"].items()}
    tokens = run.get("tokens") and Tokens(**run["tokens"])
    # The computation's type belongs to the machine that reads, unless the config fixes it.
    run = run | {"batch_spec": spec, "dtype": _dtype(config.dtype), "tokens": tokens}
    return build(config, Run(**run), opened(path))


def read_dtype(path: str | Path) -> str:
    """The type that a run computed in, whatever this machine's would be."""
    return _read_file(path)["run"]["dtype"]


def _read_file(path: str | Path) -> dict[str, Any]:
    """`config.json` of a run or an export."""
    file = opened(path) / FILE
    if not opened(path).exists():
        raise UserError(f"{path}: there is no such directory; give that of a run or of an export")
    if not file.is_file():
        raise UserError(f"{path} holds no {FILE}: give the --workdir of a run, or an export's directory")
    saved = json.loads(file.read_text())
    if saved["format"] != FORMAT:
        raise UserError(f"{file} has format {saved['format']!r}; this version reads format {FORMAT}")
    saved["config"]["data"].setdefault("eval_aspect", "keep")  # what it was before there was a choice
    return saved


def variables(experiment: Experiment) -> dict[str, Any]:
    """The weights to evaluate or to hand on: of an export, or of a run's newest checkpoint that can be read."""
    return variables_and_step(experiment)[0]


def variables_and_step(experiment: Experiment, prepared: bool = True) -> tuple[dict[str, Any], int]:
    """`variables`, and the number of steps that they were trained for.

    Those of a run are `prepared` for `predict`; the next training needs no preparation. An export's are already.
    """
    file = experiment.path / WEIGHTS
    if file.is_file():
        from safetensors.numpy import load, load_file

        flat = load(file.read_bytes()) if is_remote(file) else load_file(file)
        wanted = trees.flatten(jax.eval_shape(lambda: experiment.objective.export(fresh(experiment, 0))))
        return trees.unflatten(trees.stack(flat, wanted)), _read_file(experiment.path)["step"]
    state = checkpoint.read_state(experiment.path, abstract_state(experiment))
    if prepared and experiment.objective.prepare is not None:
        return exporter(experiment)(state), int(state.step)
    return experiment.objective.export(state), int(state.step)


def exporter(experiment: Experiment) -> Callable[[Any], Any]:
    """state -> the weights as `predict` wants them, prepared by the same draws whenever; not for use inside of jit."""
    export, prepare = jax.jit(experiment.objective.export), experiment.objective.prepare
    key = jax.random.key(KEY_PREPARE)
    return export if prepare is None else lambda state: prepare(export(state), key)


def fresh(experiment: Experiment, seed: int, given: Mapping[str, Any] | None = None) -> Any:
    """A State as `config.seed` starts it; to be called inside jit."""
    key = jax.random.fold_in(jax.random.key(seed), 0)
    return experiment.objective.init(key, experiment.run.batch_spec, given or {})


def fresh_state(experiment: Experiment, abstract: Any, weights: Mapping[str, Any]) -> Any:
    """The State of step 0 with the shardings of `abstract`, made where it will live.

    No device ever holds more than its part, and the parameters exist once.
    """
    seed = experiment.config.seed
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    begin = jax.jit(
        lambda given: fresh(experiment, seed, given), out_shardings=shardings, compiler_options=devices.run_once()
    )
    return begin(weights)


def abstract_state(experiment: Experiment) -> Any:
    """The shapes of the experiment's State."""
    return jax.eval_shape(lambda: fresh(experiment, 0))


def given_weights(experiment: Experiment) -> dict[str, Any]:
    """The arrays that `config.init` brings in, under the names and in the stacking of this model.

    Raises:
      UserError: a source lacks the part that is asked of it, or is of another model; or the objective needs a part that
        has no source.
    """
    parts = {name: path for name, path in experiment.config.init.items() if path}
    for name in experiment.objective.needs:
        if name not in parts:
            raise UserError(
                f"config.init.{name}='': config.objective.name={experiment.config.objective.name!r} does not train the "
                f"{name}, which would stay random; set it to a run or an export that has one"
            )
    given: dict[str, Any] = {}
    for name, path in parts.items():
        given |= _given_part(name, path, experiment.config)
    if not given:
        return {}
    state = abstract_state(experiment)
    wanted = trees.flatten({"params": state.params, **state.extra})
    given = trees.stack(given, wanted)
    # Copies that the objective makes itself (teachers) are in other collections than the source has.
    collections = {path.split("/")[0] for path in given}
    missing = [
        path
        for path in wanted
        if path not in given and path.split("/")[0] in collections and path.split("/")[1] in parts
    ]
    if missing:
        raise UserError(f"config.init: the given weights lack {', '.join(missing[:5])} of this model")
    return given


def _given_part(name: str, path: str, config: Tracked) -> dict[str, Any]:
    """The leaves of part `name` in the weights at `path`, under unstacked names, for a model of this config."""
    try:
        source = read(path)
        flat = trees.unstack(trees.flatten(variables_and_step(source, prepared=False)[0]))
    except UserError as error:
        raise UserError(f"config.init.{name}={path!r}: {error}") from error
    _refuse_other_settings(f"config.init.{name}={path!r}", source.config, config)
    above = {_above(k, name) for k in flat} - {None}
    # One at the top is meant; a discriminator's lies one deeper.
    if "" in above:
        above = {""}
    if len(above) != 1:
        among = f": it is in {', '.join(sorted(above))}" if above else ""
        raise UserError(f"config.init.{name}={path!r}: the weights there have no part {name!r}{among}")
    (prefix,) = above
    return {
        k.replace(f"/{prefix}", "/", 1): np.asarray(v) for k, v in flat.items() if _above(k, name) == prefix
    }


def _refuse_other_settings(source: str, there: Tracked, here: Tracked) -> None:
    """Nothing, if weights of the config `there` compute `here` what they were trained to, as far as both say.

    Raises:
      UserError: a setting of TRACELESS differs; it names both values.
    """
    differ = [
        (f"config.{section}.{key}", there[section][key], here[section][key])
        for section, keys in TRACELESS.items()
        for key in keys
        if key in there[section] and key in here[section] and there[section][key] != here[section][key]
    ]
    if differ:
        listed = ", ".join(f"{name}={trained}, not {asked}" for name, trained, asked in differ)
        flags = " ".join(f"--{name}={shlex.quote(str(trained))}" for name, trained, _ in differ)
        raise UserError(f"{source}: the weights there were trained with {listed}; give {flags}")


def _above(path: str, name: str) -> str | None:
    """What stands between the collection and the part `name` ('', or 'discriminator/'); None: it is not in the path."""
    _, *parts = path.split("/")
    return "".join(f"{part}/" for part in parts[: parts.index(name)]) if name in parts else None


def _tuples_as_text(x: Any) -> Any:
    """Nested dicts whose leaves are texts, so that lists and None are leaves too."""
    return {k: _tuples_as_text(v) for k, v in x.items()} if isinstance(x, dict) else json.dumps(x)


def _tuples(x: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    if isinstance(x, dict):
        return {k: _tuples(v) for k, v in x.items()}
    return tuple(_tuples(v) for v in x) if isinstance(x, list) else x
