"""Takes the weights of a run away: safetensors, a JSON config and a model card.

    python -m vitjax.export --workdir=DIR --out=DIR

Nothing is written before the written files were opened again and gave the features of the run.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

import vitjax
from vitjax import cli, experiment, model, model_card, trees
from vitjax.errors import UserError
from vitjax.experiment import Experiment
from vitjax.workdir import is_remote

TOLERANCE = 1e-6
BATCHES = (1, 3, 17)
# What these models fix in code and so have in no config; a user of the weights needs it all the same.
FIXED = {
    "resnet": {"pool": "gap", "activation": "relu", "norm_eps": 1e-5},
    "vgg": {"activation": "relu", "norm_eps": 1e-5},
}


def export(workdir: str | Path, out: str | Path, format: str = "vitjax") -> Path:
    """The directory `out`, which then holds the weights of the run or the export in `workdir`.

    Raises:
      UserError: there is nothing to export, an unknown format, or `out` is there already.
      RuntimeError: what was written gives other features than the run; nothing is left of it then.
    """
    if format not in FORMATS:
        raise UserError(f"--format={format} is not known; choose from {', '.join(FORMATS)}")
    if is_remote(out):
        raise UserError(f"--out={out}: an export is written to a local directory; copy it there afterwards")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out} is there already; give a new directory, or remove it first")
    built = experiment.read(workdir)
    variables, step = experiment.variables_and_step(built)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        FORMATS[format](built, variables, step, partial)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def write_vitjax(built: Experiment, variables: Any, step: int, folder: Path) -> None:
    """Our own format: float32 under the names of single blocks, and all that `vitjax.load` needs."""
    flat = trees.unstack({path: np.asarray(x) for path, x in trees.flatten(variables).items()})
    save_file(
        {path: _stored(x) for path, x in flat.items()},
        folder / experiment.WEIGHTS,
        metadata={"format": "vitjax", "version": vitjax.__version__, "step": str(step)},
    )
    facts = _config(built, flat, step)
    (folder / experiment.WEIGHTS).chmod(folder.stat().st_mode & 0o666)  # safetensors writes for its user alone
    (folder / experiment.FILE).write_text(json.dumps(facts, indent=1))
    (folder / model_card.FILE).write_text(model_card.card(facts, model_card.numbers(built.path)))
    _compare(model.Model(built, variables), model.load(folder))


FORMATS: dict[str, Callable[[Experiment, Any, int, Path], None]] = {"vitjax": write_vitjax}


def _stored(x: np.ndarray) -> np.ndarray:
    """An array as it is stored: floats as float32, in C order, which safetensors does not see to itself."""
    # Not np.ascontiguousarray, which makes a scalar (CLIP's logit scale) an array of one.
    return np.asarray(x, np.float32 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype, order="C")


def _compare(run: model.Model, exported: model.Model) -> None:
    """Raises:
    RuntimeError: features of random pictures differ.
    """
    if "features" not in run.outputs:
        return
    draw, side = np.random.default_rng(0), run.config.data.size_px
    for count in BATCHES:
        # One size a batch: every canvas is compiled twice.
        pictures = draw.integers(0, 256, (count, side + count, 2 * side, 3), np.uint8)
        difference = np.abs(run.features(pictures) - exported.features(pictures)).max()
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f"the exported model's features differ from the run's by {difference:.2g} (batch of {count}; "
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
            "resize_short_side_px": int(data.size_px / data.eval_crop_fraction),
            "crop": "center",
            "crop_fraction": data.eval_crop_fraction,
            "value_range": [0.0, 1.0],
            "mean": list(data.mean),
            "std": list(data.std),
        },
        "model": FIXED.get(settings.get("name"), {}) | settings | {"parameters": _parameters(flat)},
    }


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
    print(f"Wrote {out}; its features equal the run's. Open it with vitjax.load({str(out)!r}).")


if __name__ == "__main__":
    cli.run(main)
