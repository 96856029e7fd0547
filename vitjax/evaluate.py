"""Evaluates a run or an export: nearest neighbours and a linear probe beside their baselines.

    python -m vitjax.evaluate --workdir=DIR
    python -m vitjax.evaluate --workdir=DIR --config.data.path=PICTURES --config.evals.knn.k=10

The settings are those of the run; any of them can be given anew. A run whose config has no evaluators gets
`knn` and `linear`, which need labelled pictures in a training and a test split; the pictures may be others
than the run's.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from vitjax import cli, devices, experiment, multihost, names, sharding
from vitjax.config import Tracked, base_config, default_evals
from vitjax.data import pipeline, sources
from vitjax.data.bad_records import BadRecords
from vitjax.errors import RunError, UserError
from vitjax.evals import Evaluator, features
from vitjax.experiment import Experiment
from vitjax.progress import Progress
from vitjax.writers import EVALUATIONS

# What a number is compared with: a network of the same form before any training, and no network.
BASELINES = ("random_init", "raw_pixels")
OFF = -1  # of `every_steps`
KEY = 2  # a deterministic `predict` ignores it


class Evaluation(NamedTuple):
    """An evaluator, how often it runs (0: at the end only), and what stands beside its numbers."""

    evaluator: Evaluator
    every_steps: int
    baselines: tuple[str, ...]


class Splits:
    """The splits of a picture set that evaluators look at, each opened once.

    Attributes:
      bad: split -> records that could not be used, as this process meets them.
      met: split -> how many records all processes looked at.
    """

    def __init__(self, config: Any, mesh: Mesh):
        self._data, self._batch_size = config.data, config.batch_size
        self._canvas_px, self._workers = pipeline.canvas_px(config.data), config.data.workers
        self._form = pipeline.form(config.data)
        self._rows = sharding.local_rows(mesh, config.batch_size)
        self._sources: dict[str, Any] = {}
        self._max_bad_fraction = config.data.max_bad_fraction
        self.bad: dict[str, set[int]] = {}
        self.met: dict[str, int] = {}

    def source(self, split: str) -> Any:
        """The source of a split."""
        if split not in self._sources:
            self._sources[split] = sources.open_source(self._data, split)
        return self._sources[split]

    def batches(self, split: str, limit: int = 0) -> Iterator[Mapping[str, np.ndarray]]:
        """This process's part of every batch, each picture once; `limit` > 0 takes so many."""
        self.met[split] = max(self.met.get(split, 0), limit or len(self.source(split)))
        made = pipeline.eval_batches(
            self.source(split),
            batch_size=self._batch_size,
            rows=self._rows,
            canvas_px=self._canvas_px,
            workers=self._workers,
            limit=limit,
            fields=pipeline.fields(self._data, self.source(split)),
            form=self._form,
        )
        with made:
            for batch in made:
                self.bad.setdefault(split, set()).update(int(i) for i in batch["bad_index"] if i >= 0)
                yield batch

    def list_bad(self, path: Path | None) -> None:
        """Lists the bad records of all splits in the file `path`, if there is one; all processes must call it.

        Raises:
          RunError: they are too many.
        """
        for split, found in self.bad.items():
            records = BadRecords(path, self.source(split), pipeline.reader(self._data, self.source(split)))
            list_bad(records, list(found), self.met[split], self._max_bad_fraction)


def list_bad(records: BadRecords, found: Sequence[int], met: int, max_fraction: float) -> None:
    """Adds what all processes `found`, each of which must call it; the first one writes.

    Raises:
      RunError: more than `max_fraction` of the records that were `met` are bad.
    """
    everyone, is_first = multihost.from_all(found), jax.process_index() == 0
    if is_first:
        records.add(everyone)
    if any(multihost.from_first([int(records.too_many(met, max_fraction))])):
        raise RunError(
            f"config.data.max_bad_fraction={max_fraction}: {records.count:,} records cannot be used, of {met:,} that "
            f"were met. How many, and why, with an example:\n{records.reasons()}\n"
            "Mend these or take them out, or allow more with --config.data.max_bad_fraction"
            if is_first
            else "too many records cannot be used; the first process lists them"
        )


def prepare(built: Experiment, splits: Splits) -> dict[str, Evaluation]:
    """The evaluators that `config.evals` asks for, with their splits opened: what is amiss shows now.

    Raises:
      UserError: a name is not known, a split or a label is not there, or the objective does not predict
        what an evaluator needs.
    """
    prepared = {}
    for name, settings in built.config.evals.items():
        if settings.every_steps <= OFF:
            dict(settings)  # switched off: its other settings need no reader
            continue
        prepared[name] = _evaluation(built, name, settings, splits)
    return prepared


def _evaluation(built: Experiment, name: str, settings: Any, splits: Splits) -> Evaluation:
    module = names.find("evals", settings.name, f"config.evals.{name}.name")
    # The labels are those of the pictures to evaluate on: pretraining may have had none.
    labels = splits.source(settings.eval_split).class_names
    pictures = {name: x for name, x in built.run.batch_spec.items() if name.split("/")[0] != "label"}
    spec = pictures | {field: None for field in pipeline.labels(splits.source(settings.eval_split))}
    evaluator = module.make(settings, built.run._replace(batch_spec=spec, class_names=labels))
    for split in evaluator.splits:
        splits.source(split)
    lacking = [need for need in evaluator.needs if need not in built.objective.predict]
    if lacking:
        raise UserError(
            f"config.evals.{name} needs {', '.join(lacking)}, and config.objective.name="
            f"{built.config.objective.name!r} predicts {', '.join(built.objective.predict)}"
        )
    unknown = [baseline for baseline in settings.baselines if baseline not in BASELINES]
    if unknown:
        raise UserError(f"config.evals.{name}.baselines={unknown}: choose from {', '.join(BASELINES)}")
    return Evaluation(evaluator, settings.every_steps, tuple(settings.baselines))


def evaluate(
    built: Experiment,
    evaluations: Mapping[str, Evaluation],
    variables: Any,
    splits: Splits,
    mesh: Mesh,
    baselines: bool = True,
    tell: features.Tell = features.silent,
) -> dict[str, float]:
    """The evaluators' numbers, as 'eval/<evaluator>/<number>'.

    With `baselines`, those that an evaluator asks for stand beside them, as
    'eval/<evaluator>/random_init/<number>' and 'eval/<evaluator>/raw_pixels/<number>'.

    Args:
      tell: called every so often, with what is being done ("linear of random init: split 'test', batch 3").
    """
    metrics: dict[str, float] = {}
    for variant in ("", *(BASELINES if baselines else ())):
        asked = {name: e for name, e in evaluations.items() if not variant or variant in e.baselines}
        if not asked:
            continue
        needs = {need for evaluation in asked.values() for need in evaluation.evaluator.needs}
        fields = {
            f
            for e in asked.values()
            for split in e.evaluator.splits
            for f in pipeline.labels(splits.source(split))
        }
        functions = _functions(built, variables, variant, needs, mesh)
        with sharding.use(mesh):
            extract = features.Extract(functions, splits.batches, sorted(fields), mesh, tell)
            for name, evaluation in asked.items():
                prefix = f"eval/{name}/{variant}/" if variant else f"eval/{name}/"
                title = f"{name} of {variant.replace('_', ' ')}" if variant else name
                numbers = evaluation.evaluator.evaluate(extract.titled(title), mesh)
                metrics |= {prefix + key: value for key, value in numbers.items()}
    return metrics


def _functions(
    built: Experiment, variables: Any, variant: str, needs: Iterable[str], mesh: Mesh
) -> dict[str, Callable[[Mapping], jax.Array]]:
    """Output -> function of a batch, of the trained network, of a fresh one, or the pixels themselves."""
    if variant == "raw_pixels":
        return {"features": features.raw_pixels(built.config.data)}
    key = jax.random.key(KEY)
    if variant == "random_init":
        # Another seed than the run's: a network that is independent of the trained one.
        seed = built.config.seed + 1
        fresh = lambda: built.objective.export(experiment.fresh(built, seed))  # noqa: E731
        variables = jax.jit(fresh, compiler_options=devices.run_once())()
        if built.objective.prepare is not None:
            variables = built.objective.prepare(variables, key)
    # Once, and not with every batch.
    variables = jax.device_put(variables, sharding.shardings(variables, mesh))

    def bind(need: str) -> Callable[[Mapping], jax.Array]:
        predict = jax.jit(built.objective.predict[need])
        return lambda batch: predict(variables, batch, key)

    return {need: bind(need) for need in needs}


def table(metrics: Mapping[str, float]) -> str:
    """The accuracies as a table: a line for each evaluator and label, the baselines beside the trained network."""
    variants = {"trained": "", "random init": "random_init/", "raw pixels": "raw_pixels/"}
    lines = ["".join([f"{'':24}", *(f"{title:>13}" for title in variants), f"{'n':>10}"])]
    for evaluator, rest in _accuracies(metrics):
        label = rest.removesuffix("accuracy").strip("/")
        name = f"{evaluator} {label or '(mean)'}" if _has_labels(metrics, evaluator) else evaluator
        values = [metrics.get(f"eval/{evaluator}/{prefix}{rest}") for prefix in variants.values()]
        shown = (f"{'-' if value is None else f'{100 * value:.1f}%':>13}" for value in values)
        lines.append("".join([f"{name:24}", *shown, f"{metrics[f'eval/{evaluator}/n']:>10,}"]))
    return "\n".join(lines)


def _accuracies(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """(evaluator, 'accuracy' or '<label>/accuracy') of the trained network's numbers."""
    parts = [key.split("/", 2)[1:] for key in sorted(metrics) if key.startswith("eval/")]
    return [
        (evaluator, rest)
        for evaluator, rest in parts
        if rest.split("/")[-1] == "accuracy" and rest.split("/")[0] not in BASELINES
    ]


def _has_labels(metrics: Mapping[str, float], evaluator: str) -> bool:
    return any(name == evaluator and rest != "accuracy" for name, rest in _accuracies(metrics))


def main(argv: Sequence[str]) -> None:
    """Evaluates and prints; the numbers are also added to DIR/evaluations.jsonl."""
    options = cli.parser("vitjax.evaluate", __doc__)
    cli.add_workdir(options, "a run or an export")
    cli.add_allow_cpu(options)
    values, given = cli.parse(options, argv)
    config = experiment.read_config(values.workdir)
    # The run's mesh is that of another machine, perhaps.
    config.mesh = base_config().mesh
    if not config.evals:
        config.evals = default_evals()
    tracked = Tracked(cli.override(config, given))
    devices.check(values.allow_cpu)
    devices.use_compilation_cache()
    built = experiment.read(values.workdir, tracked)
    mesh = sharding.make_mesh(tracked.mesh)
    splits = Splits(tracked, mesh)
    evaluations = prepare(built, splits)
    tracked.refuse_unread(cli.keys(given))
    variables, step = experiment.variables_and_step(built)
    print(f"{built.path}, step {step:,}")
    progress = Progress(total_steps=step, first_step=step, batch_size=tracked.batch_size)
    metrics = evaluate(
        built, evaluations, variables, splits, mesh, tell=lambda what: progress.doing(f"evaluating {what}")
    )
    progress.say(table(metrics))
    splits.list_bad(None)
    row = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "step": step, "given": given, **metrics}
    # Object stores cannot append.
    file = built.path / EVALUATIONS
    before = file.read_text() if file.exists() else ""
    file.write_text(f"{before}{json.dumps(row)}\n")


if __name__ == "__main__":
    cli.run(main)
