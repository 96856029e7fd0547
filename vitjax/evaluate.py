"""Evaluates a run or an export: nearest neighbours and a linear probe beside their baselines.

    python -m vitjax.evaluate --workdir=DIR
    python -m vitjax.evaluate --workdir=DIR --config.data.path=PICTURES --config.evals.knn.k=10
    python -m vitjax.evaluate --workdir=DIR --evals=zero_shot,retrieval

The settings are those of the run; any of them can be given anew. `--evals` chooses evaluators, which the run need not
have had. A run whose config has none gets `knn` and `linear`, which need labelled pictures in a training and a test
split; the pictures may be others than the run's.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vitjax import cli, devices, experiment, feature_networks, multihost, names, sharding
from vitjax.config import DEFAULT_EVALS, EVALS, Tracked, base_config
from vitjax.data import pipeline, sources, tokenize
from vitjax.data.bad_records import BadRecords
from vitjax.data.tokenize import Tokenizer
from vitjax.errors import RunError, UserError
from vitjax.evals import Evaluator, features, generated
from vitjax.experiment import Experiment
from vitjax.progress import Progress
from vitjax.writers import EVALUATIONS

# What a number is compared with: a network of the same form before any training, and no network.
BASELINES = ("random_init", "raw_pixels")
OFF = -1  # of `every_steps`
# The numbers that the table shows.
SHARES = ("accuracy", "top5_accuracy", "recall_at_1", "recall_at_5", "recall_at_10")
NAME_WIDTH = 24
KEY = 2  # a deterministic `predict` ignores it


class Evaluation(NamedTuple):
    """An evaluator, how often it runs (0: at the end only), what stands beside its numbers, and its network, if any."""

    evaluator: Evaluator
    every_steps: int
    baselines: tuple[str, ...]
    network: generated.Network | None = None


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
        self._tokenizer: Tokenizer | None = None
        self._max_bad_fraction = config.data.max_bad_fraction
        self.bad: dict[str, set[int]] = {}
        self.met: dict[str, int] = {}

    def source(self, split: str) -> Any:
        """The source of a split."""
        if split not in self._sources:
            self._sources[split] = sources.open_source(self._data, split)
        return self._sources[split]

    def tokenizer(self) -> Tokenizer:
        """That of the data, also where they have no captions: names of classes are texts, too.

        Raises:
          UserError: there is no such tokenizer.
        """
        if self._tokenizer is None:
            self._tokenizer = tokenize.make(self._data)
        return self._tokenizer

    def batches(self, split: str, limit: int = 0, captions: int = 0) -> Iterator[Mapping[str, np.ndarray]]:
        """This process's part of every batch, each picture once; `limit` > 0 takes so many.

        Args:
          captions: slots for the captions of a picture, the first of which fill them; 0: as in training.
        """
        self.met[split] = max(self.met.get(split, 0), limit or len(self.source(split)))
        made = pipeline.eval_batches(
            self.source(split),
            batch_size=self._batch_size,
            rows=self._rows,
            canvas_px=self._canvas_px,
            workers=self._workers,
            limit=limit,
            fields=pipeline.fields(self._data, self.source(split)),
            form=self._form._replace(captions=captions or self._form.captions),
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
      UserError: a name is not known, a split, a label or a network is not there, or the objective does not predict
        what an evaluator needs.
    """
    prepared, networks = {}, {}
    for name, settings in built.config.evals.items():
        if settings.every_steps <= OFF:
            dict(settings)  # switched off: its other settings need no reader
            continue
        evaluation = _evaluation(built, name, settings, splits)
        prepared[name] = evaluation._replace(network=_network(evaluation.evaluator, name, networks))
    return prepared


def _network(evaluator: Evaluator, name: str, known: dict[str, generated.Network]) -> generated.Network | None:
    """The network that the evaluator compares pictures by; each is opened once, and then `known`."""
    if evaluator.network is None:
        return None
    where, output = evaluator.network
    setting = f"config.evals.{name}.features={where!r}"
    try:
        known[where] = known[where] if where in known else feature_networks.open_network(where)
    except UserError as error:
        raise UserError(f"{setting}: {error}") from error
    outputs = known[where].outputs
    if output not in outputs:
        raise UserError(f"{setting}: {name} needs {output}, and this network has {', '.join(outputs) or 'no outputs'}")
    return known[where]


def _evaluation(built: Experiment, name: str, settings: Any, splits: Splits) -> Evaluation:
    module = names.find("evals", settings.name, f"config.evals.{name}.name")
    # The labels are those of the pictures to evaluate on: pretraining may have had none.
    labels = splits.source(settings.eval_split).class_names
    fields = pipeline.fields(built.config.data, splits.source(settings.eval_split))
    spec = {name: built.run.batch_spec.get(name) for name in ("image", "size", "row", "valid", *fields)}
    evaluator = module.make(settings, built.run._replace(batch_spec=spec, class_names=labels))
    for split in evaluator.splits:
        splits.source(split)
    lacking = [need for need in evaluator.needs if need not in built.objective.predict]
    if lacking:
        raise UserError(
            f"config.evals.{name} needs {', '.join(lacking)}, and config.objective.name="
            f"{built.config.objective.name!r} predicts {', '.join(built.objective.predict)}"
        )
    if "text_embed" in evaluator.needs:
        splits.tokenizer()
    unknown = [baseline for baseline in settings.baselines if baseline not in BASELINES]
    if unknown:
        raise UserError(f"config.evals.{name}.baselines={unknown}: choose from {', '.join(BASELINES)}")
    if "raw_pixels" in settings.baselines and "text_embed" in evaluator.needs:
        raise UserError(
            f"config.evals.{name}.baselines={tuple(settings.baselines)}: pixels have no texts; leave 'raw_pixels' out"
        )
    if "raw_pixels" in settings.baselines and "generate" in evaluator.needs:
        baselines = tuple(settings.baselines)
        raise UserError(f"config.evals.{name}.baselines={baselines}: pixels make nothing; leave 'raw_pixels' out")
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
    real: dict[tuple[str, str, str, int], features.Features] = {}
    networks = {e.network.name: e.network.placed(mesh) for e in evaluations.values() if e.network is not None}
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
        tokenizer = splits.tokenizer() if "text_embed" in needs else None
        with sharding.use(mesh):
            extract = features.Extract(
                functions, splits.batches, sorted(fields), mesh, tell, tokenizer, built.config.batch_size, real=real
            )
            for name, evaluation in asked.items():
                prefix = f"eval/{name}/{variant}/" if variant else f"eval/{name}/"
                title = f"{name} of {variant.replace('_', ' ')}" if variant else name
                own = extract.titled(title)
                if evaluation.network is not None:
                    own = dataclasses.replace(own, network=networks[evaluation.network.name])
                numbers = evaluation.evaluator.evaluate(own, mesh)
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

    made = {"real": generated.real_pictures(built.config.data)} if "generate" in needs else {}
    return made | {need: bind(need) for need in needs}


def _shares_table(metrics: Mapping[str, float]) -> str:
    """The shares of what is right, a line for each evaluator and label, with baselines beside; '' if none."""
    if not _shares(metrics):
        return ""
    variants = {"trained": "", "random init": "random_init/", "raw pixels": "raw_pixels/"}
    shares = [(f"{name} {_said(metrics, name, rest)}".strip(), name, rest) for name, rest in _shares(metrics)]
    width = max([NAME_WIDTH, *(len(name) for name, _, _ in shares)])
    lines = ["".join([" " * width, *(f"{title:>13}" for title in variants), f"{'n':>10}"])]
    for name, evaluator, rest in shares:
        values = [metrics.get(f"eval/{evaluator}/{prefix}{rest}") for prefix in variants.values()]
        shown = (f"{'-' if value is None else f'{100 * value:.1f}%':>13}" for value in values)
        lines.append("".join([f"{name:{width}}", *shown, f"{metrics[f'eval/{evaluator}/n']:>10,}"]))
    return "\n".join(lines)


def _said(metrics: Mapping[str, float], evaluator: str, rest: str) -> str:
    """What the number `rest` of an evaluator is called in the table; the accuracy of a single label needs no name."""
    label, _, number = rest.rpartition("/")
    if number != "accuracy":
        return " ".join([*label.split("/"), number.replace("_accuracy", "").replace("recall_at_", "R@")]).strip()
    has_labels = any(name == evaluator and other.endswith("/accuracy") for name, other in _shares(metrics))
    return (label or "(mean)") if has_labels else ""


def _shares(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """(evaluator, 'accuracy' or '<label>/accuracy' or the like) of the trained network's numbers."""
    parts = [key.split("/", 2)[1:] for key in metrics if key.startswith("eval/")]
    shares = [
        (evaluator, rest)
        for evaluator, rest in parts
        if rest.split("/")[-1] in SHARES and rest.split("/")[0] not in BASELINES
    ]
    return sorted(shares, key=lambda share: (share[0], _place(share[1])))


def _place(rest: str) -> tuple[str, int]:
    """Where a number stands among those of its evaluator: by label, and each label's in the order of SHARES."""
    label, _, number = rest.rpartition("/")
    return label, SHARES.index(number)


def table(metrics: Mapping[str, float]) -> str:
    """What was found as tables: accuracies by evaluator and label, then the figures of generators."""
    return "\n".join(lines for lines in (_shares_table(metrics), generated.table(metrics)) if lines)


def chosen(own: ml_collections.ConfigDict, wanted: str | None) -> ml_collections.ConfigDict:
    """The evaluators that the command asks for, with the run's `own` settings where it has them.

    Raises:
      UserError: there is no such evaluator.
    """
    if wanted is None:
        return own if own else ml_collections.ConfigDict({name: EVALS[name]() for name in DEFAULT_EVALS})
    evals = ml_collections.ConfigDict()
    for name in wanted.split(","):
        if name not in own and name not in EVALS:
            known = sorted({*own, *EVALS})
            raise UserError(
                f"--evals={wanted}: {name!r} is not known{names.nearest(name, known)}; choose from {', '.join(known)}"
            )
        evals[name] = own[name] if name in own else EVALS[name]()
    return evals


def main(argv: Sequence[str]) -> None:
    """Evaluates and prints; the numbers are also added to DIR/evaluations.jsonl."""
    options = cli.parser("vitjax.evaluate", __doc__)
    cli.add_workdir(options, "a run or an export")
    cli.add_allow_cpu(options)
    options.add_argument("--evals", metavar="NAMES", help=f"some of {','.join(EVALS)} instead of the run's own")
    values, given = cli.parse(options, argv)
    config = experiment.read_config(values.workdir)
    # The run's mesh is that of another machine, perhaps, and what it started from is behind it.
    config.mesh, config.init = base_config().mesh, base_config().init
    config.evals = chosen(config.evals, values.evals)
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
