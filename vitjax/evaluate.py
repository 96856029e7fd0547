"""The evaluators alone, from a run or an export.

    python -m vitjax.evaluate --workdir=DIR
    python -m vitjax.evaluate --workdir=DIR --config.data.path=PICTURES --config.evals.knn.k=10

The settings are those of the run; any of them can be given anew. A run whose config has no evaluators gets
`knn` and `linear`, which need labelled pictures in a training and a test split.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vitjax import cli, experiment, sharding
from vitjax.config import Tracked, default_evals
from vitjax.data import pipeline, sources
from vitjax.evals import features
from vitjax.experiment import BASELINES, Experiment
from vitjax.writers import EVALUATIONS

FEATURE_KEY = 2  # a deterministic `predict` ignores it


def evaluate(
    built: Experiment, variables: Any, mesh: Mesh, names: Any = None, baselines: bool = True
) -> dict[str, float]:
    """The numbers of the evaluators `names` (all by default), as 'eval/<evaluator>/<number>'.

    With `baselines`, those that an evaluator's config asks for stand beside them, as
    'eval/<evaluator>/random_init/<number>' and 'eval/<evaluator>/raw_pixels/<number>'.
    """
    batches = split_batches(built.config, mesh)
    metrics: dict[str, float] = {}
    for name in built.evaluations if names is None else names:
        evaluation = built.evaluations[name]
        for variant in ("", *(evaluation.baselines if baselines else ())):
            features_of = _features_of(built, variables, variant)
            with sharding.use(mesh):
                numbers = evaluation.evaluator.evaluate(features_of, batches, mesh)
            prefix = f"eval/{name}/{variant}/" if variant else f"eval/{name}/"
            metrics |= {prefix + key: value for key, value in numbers.items()}
    return metrics


def split_batches(config: Any, mesh: Mesh) -> Callable[[str, int], Iterator[Mapping[str, np.ndarray]]]:
    """(split, limit) -> this process's part of every batch of that split, each picture once."""
    data, batch_size = config.data, config.batch_size

    def batches(split: str, limit: int = 0) -> Iterator[Mapping[str, np.ndarray]]:
        source = sources.open_source(data, split)
        return pipeline.eval_batches(
            source,
            batch_size=batch_size,
            rows=sharding.local_rows(mesh, batch_size),
            canvas_px=pipeline.canvas_px(data),
            workers=data.workers,
            limit=limit,
        )

    return batches


def _features_of(built: Experiment, variables: Any, variant: str) -> Callable[[Mapping], jax.Array]:
    """batch -> features of the trained network, of a fresh one, or the pixels themselves."""
    if variant == "raw_pixels":
        return features.raw_pixels(built.config.data)
    if variant == "random_init":
        # Another seed than the run's: its own start would be as good, but is not an independent network.
        seed = built.config.seed + 1
        variables = jax.jit(lambda: built.objective.export(experiment.fresh(built, seed)))()
    key = jax.random.key(FEATURE_KEY)
    predict = jax.jit(built.objective.predict["features"])
    return lambda batch: predict(variables, batch, key)


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
    values, given = cli.parse(options, argv)
    config = experiment.read_config(values.workdir)
    if not config.evals:
        config.evals = default_evals()
    tracked = Tracked(cli.override(config, given))
    built = experiment.read(values.workdir, tracked)
    tracked.refuse_unread(cli.keys(given))
    metrics = evaluate(built, experiment.variables(built), sharding.make_mesh(tracked.mesh))
    print(table(metrics))
    row = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "given": given, **metrics}
    with open(built.path / EVALUATIONS, "a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    cli.run(main)
