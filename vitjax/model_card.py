"""The model card of an export: what it is, how to use it, how it was trained and what it scored."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

import vitjax
from vitjax import evaluate, experiment, jsonl, writers

FILE = "README.md"
_NAMES = 20

_CARD = """\
# {title}

{parameters:,} parameters, pictures of {size_px} x {size_px} px. Written by vitjax {version} (jax {jax}).

## Use

```python
import vitjax
model = vitjax.load("path/of/this/folder")
features = model.features(pictures)  # uint8 [B, H, W, 3] of any size -> float32 [B, D]
```

Without vitjax: `{weights}` holds every array under its name (`params/backbone/...`), and `{config}` the
architecture (`model`) and what to feed it (`preprocess`): RGB in 0..1, the short side resized to
{short_px} px ({resize}, antialiased), the centre cut to {size_px} px, minus mean
({mean}), divided by std ({std}).

## Training

{training}
The whole config is in `{config}`.

## Results

{results}

## Labels of the data

{labels}
"""


def card(facts: Mapping[str, Any], measured: Mapping[str, float]) -> str:
    """The card as Markdown.

    Args:
      facts: what the export's config.json holds.
      measured: from `numbers`.
    """
    feed, network = facts["preprocess"], facts["model"].get("name", "The network")
    trained, objective = "origin" not in facts, facts["config"]["objective"]["name"]
    return _CARD.format(
        title=f"{network}, pretrained with {objective}" if trained else f"{network}, imported",
        training=_training(facts, measured) if trained else f"Elsewhere: {facts['origin']}.",
        parameters=facts["model"]["parameters"],
        version=vitjax.__version__,
        jax=jax.__version__,
        weights=experiment.WEIGHTS,
        config=experiment.FILE,
        size_px=feed["size_px"],
        short_px=feed["resize_short_side_px"],
        resize=feed["resize"],
        mean=", ".join(f"{x:g}" for x in feed["mean"]),
        std=", ".join(f"{x:g}" for x in feed["std"]),
        results=_results(measured),
        labels="\n".join(f"- `{k}`: {_listed(v)}" for k, v in facts["run"]["class_names"].items()) or "None.",
    )


def _training(facts: Mapping[str, Any], measured: Mapping[str, float]) -> str:
    """How far the run came."""
    run, step = facts["run"], facts["step"]
    seen, epochs = step * run["batch_size"], step / run["steps_per_epoch"]
    loss = f", last training loss {measured['train/loss']:.4g}" if "train/loss" in measured else ""
    return (
        f"{step:,} of {run['total_steps']:,} steps of {run['batch_size']:,} pictures: {seen:,} seen, "
        f"{epochs:,.1f} epochs{loss}."
    )


def numbers(path: epath.PathLike) -> dict[str, float]:
    """What was measured of the weights of a run: by its last line, and by `vitjax.evaluate` with its own settings.

    Numbers of earlier steps, and those of other pictures or other settings, are not these weights' results.
    """
    own = [row for row in jsonl.read(path / writers.EVALUATIONS) if not row["given"]]
    last: dict[str, float] = {}
    for row in writers.read_metrics(path)[-1:] + own:
        wanted = {k: v for k, v in row.items() if k == "train/loss" or k.startswith("eval/")}
        last |= {name: value for name, value in wanted.items() if value is not None}
    return last


def _results(measured: Mapping[str, float]) -> str:
    """The evaluators' table."""
    if not any(name.startswith("eval/") for name in measured):
        return "Not evaluated."
    return f"Accuracy of probes on the frozen features:\n\n```\n{evaluate.table(measured)}\n```"


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f", and {len(names) - _NAMES} more (in `{experiment.FILE}`)" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more
