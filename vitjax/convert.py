"""Makes an export of weights of timm, torchvision, Hugging Face, OpenAI or open_clip.

    python -m vitjax.convert --config=configs/clip_vitb32.py --weights=ViT-B-32.safetensors --out=my_clip \\
        --config.data.tokenizer=clip:bpe_simple_vocab_16e6.txt.gz
    python -m vitjax.convert --config=configs/supervised_resnet50.py --weights=resnet50.safetensors --out=my_resnet

The config says what the weights are: the model, its pictures, and what becomes of them later. `--weights` is a file of
safetensors (`tools/convert_torch.py` makes one of a torch file) or a directory of Hugging Face, whose own config.json
then has the last word on two towers, and its preprocessor_config.json on their pictures. Which layout it is is seen
from the names. What comes out is opened by `vitjax.load`, evaluated by `vitjax.evaluate`, and trained on by
`config.init`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from safetensors.numpy import load_file

from vitjax import cli, experiment, export, trees
from vitjax.config import Tracked
from vitjax.errors import UserError
from vitjax.experiment import Experiment
from vitjax.interop import huggingface, mae, table, timm_vit, torchvision_resnet, torchvision_vgg, two_towers
from vitjax.models import mae as mae_model
from vitjax.models import two_towers as towers_model

INDEX = "model.safetensors.index.json"
HEAD = "params/head/kernel"


class NoPictures:
    """A source for an experiment that is not going to be trained: it has labels and captions, and no pictures."""

    def __init__(self, class_names: Mapping[str, tuple[str, ...]]):
        self.class_names = class_names

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict.fromkeys(self.class_names, np.int32(-1)) | {"text": ()}

    def name(self, index: int) -> str:
        """Of a record that there is not."""
        return ""


def convert(
    config: ml_collections.ConfigDict, weights: str | Path, out: str | Path, classes: str | Path | None = None
) -> Experiment:
    """Writes the export `out` of the model that `config` describes.

    Args:
      config: as of a run.
      weights: a file or a directory.
      classes: a file with the names of a classifier's classes, one a line; else they are numbered.

    Raises:
      UserError: there are no such files, the weights are of another model or in no layout that is known, or `out` is
        there already.
    """
    out, weights = export.new_directory(out), Path(weights)
    theirs = read(weights)
    if "towers" in tuple(config) and (weights / huggingface.CONFIG).is_file():
        with config.unlocked():
            config.update(huggingface.settings_of(weights))
    tracked = Tracked(config)
    try:
        ours = variables(tracked, theirs)
    except UserError as error:
        raise UserError(f"--weights={weights}: {error}") from error
    built = experiment.prepare(tracked, NoPictures(_class_names(tracked, ours, classes)), None)
    wanted = trees.flatten(jax.eval_shape(lambda: built.objective.export(experiment.fresh(built, 0))))
    ours = trees.stack(ours, wanted)
    wrong = [
        f"{path} {tuple(np.shape(ours[path])) if path in ours else 'is missing'}, not {leaf.shape}"
        for path, leaf in wanted.items()
        if path not in ours or np.shape(ours[path]) != leaf.shape
    ]
    if wrong:
        raise UserError(f"--weights={weights} do not fit the model of the config: {'; '.join(wrong[:5])}")
    with export.appearing(out) as partial:
        export.write_vitjax(built, trees.unflatten(ours), 0, partial, origin=f"weights of {weights.name}")
    return built


def read(weights: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of safetensors, or of all those of a directory.

    Raises:
      UserError: there are none, or the file is none.
    """
    files = [weights]
    if weights.is_dir():
        index = weights / INDEX
        named = json.loads(index.read_text())["weight_map"].values() if index.is_file() else [experiment.WEIGHTS]
        files = [weights / name for name in sorted(set(named))]
    arrays: dict[str, np.ndarray] = {}
    for file in files:
        if not file.is_file():
            raise UserError(f"--weights={weights}: there is no file {file}; give one of safetensors, or its directory")
        try:
            arrays |= load_file(file)
        except Exception as error:  # safetensors has an own class of errors, and numpy lacks types that torch has
            raise UserError(
                f"--weights={weights}: {file.name} is no file of safetensors that numpy can hold ({error}); "
                "tools/convert_torch.py makes one of a torch file"
            ) from error
    return arrays


def variables(config: Any, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our flat variables, of single blocks, from another library's weights.

    Raises:
      UserError: no layout is known for the model, or the names are not those of one.
    """
    if "towers" in tuple(config):
        return two_towers.read(weights, towers_model.make(config.model, config.text, config.towers))
    if config.objective.name == "mae":
        return mae.read(weights, mae_model.make(config.model, config.objective))
    if config.objective.name != "supervised" or config.model.name not in CLASSIFIERS:
        raise UserError(
            f"other libraries' weights are known for classifiers ({', '.join(CLASSIFIERS)}), masked autoencoders and "
            f"CLIP or SigLIP, not for config.objective.name={config.objective.name!r} with config.model.name="
            f"{config.model.name!r}; begin from a config such as configs/supervised_resnet50.py"
        )
    return table.read(weights, CLASSIFIERS[config.model.name](config))


def _vit(config: Any) -> list[table.Row]:
    side = config.data.size_px // config.model.patch_px
    return timm_vit.rows(config.model, (side, side))


CLASSIFIERS: dict[str, Callable[[Any], list[table.Row]]] = {
    "vit": _vit,
    "resnet": lambda config: torchvision_resnet.rows(config.model),
    "vgg": lambda config: torchvision_vgg.rows(config.model),
}


def _class_names(
    config: Any, ours: Mapping[str, np.ndarray], classes: str | Path | None
) -> dict[str, tuple[str, ...]]:
    """Those of the classifier's head, where there is one.

    Raises:
      UserError: the file has another number of names.
    """
    if HEAD not in ours:
        if classes is not None:
            raise UserError(f"--classes={classes}: these weights have no classifier")
        return {}
    number = ours[HEAD].shape[1]
    names = tuple(str(k) for k in range(number))
    if classes is not None:
        if not Path(classes).is_file():
            raise UserError(f"--classes={classes}: there is no such file")
        names = tuple(Path(classes).read_text().splitlines())
        if len(names) != number:
            raise UserError(f"--classes={classes} has {len(names)} names, and the classifier {number} classes")
    return {config.objective.label: names}


def main(argv: Sequence[str]) -> None:
    """Converts what the command line names."""
    options = cli.parser("vitjax.convert", __doc__)
    options.add_argument("--weights", required=True, metavar="FILE", help="of safetensors, or a directory")
    options.add_argument("--out", required=True, metavar="DIR", help="where the export is written")
    options.add_argument("--classes", metavar="FILE", help="the names of a classifier's classes, one a line")
    values, given = cli.parse(options, argv)
    built = convert(cli.load_config(given), values.weights, values.out, values.classes)
    print(f"Wrote {values.out}: {experiment.title(built.config)}. Open it with vitjax.load({values.out!r}).")


if __name__ == "__main__":
    cli.run(main)
