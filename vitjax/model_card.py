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
architecture (`model`) and what to feed it (`preprocess`): RGB in 0..1, {sides} resized to
{short_px} px ({resize}, antialiased), the centre cut to {size_px} px, minus mean
({mean}), divided by std ({std}).
{texts}
## Training

{training}
The whole config is in `{config}`.

## Results

{results}

## Labels of the data

{labels}
"""

_TEXTS = """
## Texts

```python
images = model.image_embed(pictures)                      # unit vectors [B, E]
texts = model.text_embed(["a red bicycle", "two dogs"])   # unit vectors [T, E]
cosines = images @ texts.T
names = ["cat", "dog"]
[names[k] for k in model.zero_shot(pictures, names).argmax(1)]  # what each picture shows
```

Without vitjax, by `texts` in `{config}`:

- tokenizer: {tokenizer}
- cleaning before it: {cleaned}
- tokens of a text: {text_length}, of which the first is {begin} and the last {end}; {pad} fills up what is shorter, and
  what is longer is cut before its last
- logit of a picture and a text (logit scale, and bias where there is one): {logit}
"""
_CLEANED = {
    "": "none (clean '')",
    "lower": "lower case and single spaces (clean 'lower')",
    "canonical": "lower case and single spaces, without punctuation (clean 'canonical')",
}
_TOKENIZERS = {
    "bytes": "the bytes of UTF-8, 3 added to each",
    "clip": "CLIP's byte pairs, after CLIP's own cleaning",
    "hf": "a tokenizer.json of the library tokenizers",
    "sentencepiece": "a model of the library sentencepiece",
}


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
        texts=_texts(facts["texts"]) if "texts" in facts else "",
        sides="both sides" if feed["aspect"] == "squash" else "the short side",
        short_px=feed["resize_short_side_px"],
        resize=feed["resize"],
        mean=", ".join(f"{x:g}" for x in feed["mean"]),
        std=", ".join(f"{x:g}" for x in feed["std"]),
        results=_results(measured),
        labels="\n".join(f"- `{k}`: {_listed(v)}" for k, v in facts["run"]["class_names"].items()) or "None.",
    )


def _texts(texts: Mapping[str, Any]) -> str:
    """How texts become vectors, and what is made of their cosines."""
    files = ", ".join(f"`{file}`" for file in texts["files"])
    logit = f"{texts['scale']:.6g} * cosine + {texts['bias']:.6g}" if "scale" in texts else "the cosine"
    return _TEXTS.format(
        config=experiment.FILE,
        tokenizer=_TOKENIZERS[texts["tokenizer"]] + (f", in {files}" if files else ""),
        cleaned=_CLEANED[texts["clean"]],
        text_length=texts["text_length"],
        **{name: "none of its own" if texts[name] is None else texts[name] for name in ("begin", "end")},
        pad=texts["pad"],
        logit=logit,
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
