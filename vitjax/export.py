"""Takes the weights of a run away: safetensors, a JSON config and a model card.

    python -m vitjax.export --workdir=DIR --out=DIR [--format=transformers]

By default for `vitjax.load(DIR)`; 'transformers' is for `transformers.AutoModel.from_pretrained(DIR)`, of CLIP
and SigLIP alone. Nothing is written before the written files were opened again and gave the features of the run, and
the embeddings of its texts.
"""

import contextlib
import json
import os
import shutil
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np
from safetensors.numpy import load_file, save_file

import vitjax
from vitjax import augment, cli, experiment, model, model_card, trees
from vitjax.config import Tracked
from vitjax.data import vocabulary_files
from vitjax.errors import UserError
from vitjax.experiment import Experiment
from vitjax.interop import huggingface, table
from vitjax.workdir import is_remote

TOLERANCE = 1e-6
BATCHES = (1, 3, 17)
COMPARED = ("features", "image_embed", "text_embed")
LETTERS, MAX_LETTERS = np.array(list(f"{string.ascii_letters}{8 * ' '}")), 80  # of the captions that are compared
# What these models fix in code and so have in no config; a user of the weights needs it all the same.
FIXED = {
    "resnet": {"pool": "gap", "activation": "relu", "norm_eps": 1e-5},
    "vgg": {"activation": "relu", "norm_eps": 1e-5},
    "clip_vit": {"pre_norm": True, "patch_bias": False},
    "clip_resnet": {"pool": "attention", "activation": "relu", "norm_eps": 1e-5},
}


def export(workdir: str | Path, out: str | Path, format: str = "vitjax") -> Path:
    """The directory `out`, which then holds the weights of the run or the export in `workdir`.

    Raises:
      UserError: there is nothing to export, an unknown format, or `out` is there already.
      RuntimeError: what was written gives other features than the run; nothing is left of it then.
    """
    if format not in FORMATS:
        raise UserError(f"--format={format} is not known; choose from {', '.join(FORMATS)}")
    out = new_directory(out)
    built = experiment.read(workdir)
    variables, step = experiment.variables_and_step(built)
    with appearing(out) as partial:
        FORMATS[format](built, variables, step, partial)
    return out


def new_directory(out: str | Path) -> Path:
    """`out`, where nothing is yet.

    Raises:
      UserError: something is, or it is not on this machine.
    """
    if is_remote(out):
        raise UserError(f"--out={out}: an export is written to a local directory; copy it there afterwards")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out} is there already; give a new directory, or remove it first")
    return out


@contextlib.contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A directory to write to, which becomes `out` in the end, or leaves nothing if anything fails."""
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_vitjax(built: Experiment, variables: Any, step: int, folder: Path, origin: str = "") -> None:
    """Our own format: float32 under the names of single blocks, and all that `vitjax.load` needs.

    Args:
      origin: where weights come from that were not trained here.
    """
    flat = trees.unstack({path: np.asarray(x) for path, x in trees.flatten(variables).items()})
    save_file(
        {path: _stored(x) for path, x in flat.items()},
        folder / experiment.WEIGHTS,
        metadata={"format": "vitjax", "version": vitjax.__version__, "step": str(step)},
    )
    facts = _config(built, flat, step) | _texts(built, flat) | ({"origin": origin} if origin else {})
    (folder / experiment.WEIGHTS).chmod(folder.stat().st_mode & 0o666)  # safetensors writes for its user alone
    (folder / experiment.FILE).write_text(json.dumps(facts, indent=1))
    experiment.keep_tokenizer(built, folder)
    (folder / model_card.FILE).write_text(model_card.card(facts, model_card.numbers(built.path) if built.path else {}))
    _compare(model.Model(built, variables), model.load(folder))


def write_transformers(built: Experiment, variables: Any, step: int, folder: Path) -> None:
    """The directory of a CLIP or SigLIP of Hugging Face, in float32.

    Raises:
      UserError: transformers has no class for the model.
    """
    flat = {path: _stored(np.asarray(x)) for path, x in trees.flatten(variables).items()}
    files = huggingface.files(built.config, trees.unstack(flat))
    weights = folder / experiment.WEIGHTS
    save_file(files.tensors, weights, metadata={"format": "pt"})
    weights.chmod(folder.stat().st_mode & 0o666)
    for name, facts in files.json.items():
        (folder / name).write_text(json.dumps(facts, indent=2))
    back = trees.stack(table.read(load_file(weights), files.rows), flat)
    if any(not np.array_equal(back[path], x, equal_nan=True) for path, x in flat.items()):
        raise RuntimeError("the weights that were written are not the run's; nothing was written")
    # By the settings that another reader would find, so that a wrong one of them is seen.
    config = ml_collections.ConfigDict(built.config.to_dict())
    config.update(huggingface.settings_of(folder))
    described = experiment.build(Tracked(config), built.run, built.path)
    _compare(model.Model(built, variables), model.Model(described, trees.unflatten(back)))


FORMATS: dict[str, Callable[[Experiment, Any, int, Path], None]] = {
    "vitjax": write_vitjax,
    "transformers": write_transformers,
}
OPENED_BY = {"vitjax": "vitjax.load", "transformers": "transformers.AutoModel.from_pretrained"}


def _stored(x: np.ndarray) -> np.ndarray:
    """An array as it is stored: floats as float32, in C order, which safetensors does not see to itself."""
    # Not np.ascontiguousarray, which makes a scalar (CLIP's logit scale) an array of one.
    return np.asarray(x, np.float32 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype, order="C")


def _compare(run: model.Model, exported: model.Model) -> None:
    """Raises:
    RuntimeError: features or embeddings of random pictures or captions differ.
    """
    outputs = [name for name in COMPARED if name in run.outputs]
    draw, side = np.random.default_rng(0), run.config.data.size_px
    for count in BATCHES:
        # One size a batch: every canvas is compiled twice.
        pictures = draw.integers(0, 256, (count, side + count, 2 * side, 3), np.uint8)
        captions = ["".join(draw.choice(LETTERS, length)) for length in draw.integers(1, MAX_LETTERS, count)]
        for name in outputs:
            ours, theirs = (
                m.text_embed(captions) if name == "text_embed" else m.predict(name, pictures) for m in (run, exported)
            )
            difference = np.abs(ours - theirs).max()
            if not difference <= TOLERANCE:
                raise RuntimeError(
                    f"the exported model's {name} differ from the run's by {difference:.2g} (batch of {count}; "
                    f"at most {TOLERANCE:g} is right); nothing was written"
                )


def _config(built: Experiment, flat: Mapping[str, np.ndarray], step: int) -> dict[str, Any]:
    """config.json of the run, and beside it what a user without vitjax needs in order to feed the model."""
    data, settings = built.config.data, built.config.to_dict()["model"]
    return experiment.to_json(built) | {
        "step": step,
        "preprocess": {
            "channels": "RGB",
            "layout": "BHWC",
            "size_px": data.size_px,
            "resize": data.resize,
            "antialias": True,
            "aspect": data.eval_aspect,
            "resize_short_side_px": augment.resized_px(data.size_px, data.eval_crop_fraction),
            "crop": "center",
            "crop_fraction": data.eval_crop_fraction,
            "value_range": [0.0, 1.0],
            "mean": list(data.mean),
            "std": list(data.std),
        },
        "model": FIXED.get(settings.get("name"), {}) | settings | {"parameters": _parameters(flat)},
    }


def _texts(built: Experiment, flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the same user needs for texts, where the model embeds them: what tokens are, and what cosines become."""
    tokens, data = built.run.tokens, built.config.data
    if tokens is None or "text_embed" not in built.objective.predict:
        return {}
    kind = vocabulary_files.kind_of(data.tokenizer)
    files = [f"{vocabulary_files.FOLDER}/{os.path.basename(path)}" for path in vocabulary_files.paths(data.tokenizer)]
    facts = {"tokenizer": kind or data.tokenizer, "files": files, "clean": data.text_clean} | tokens._asdict()
    if "params/logit_scale" in flat:
        facts["scale"] = float(np.exp(flat["params/logit_scale"]))
        facts["bias"] = float(flat.get("params/logit_bias", 0.0))
    return {"texts": facts}


def _parameters(flat: Mapping[str, np.ndarray]) -> int:
    return sum(x.size for path, x in flat.items() if path.startswith("params/"))


def main(argv: Sequence[str]) -> None:
    """Exports what the command line names."""
    options = cli.parser("vitjax.export", __doc__)
    cli.add_workdir(options, "a run or an export")
    options.add_argument("--out", required=True, metavar="DIR", help="where the export is written")
    options.add_argument("--format", default="vitjax", help=f"one of: {', '.join(FORMATS)}")
    values, given = cli.parse(options, argv)
    if given:
        raise UserError(f"{given[0]}: an export takes the config of the run; no setting can be changed")
    out = export(values.workdir, values.out, values.format)
    opened_by = OPENED_BY[values.format]
    print(f"Wrote {out}; its features equal the run's. Open it with {opened_by}({str(out)!r}).")


if __name__ == "__main__":
    cli.run(main)
