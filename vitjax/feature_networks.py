"""The networks that made pictures are compared by, found by what `config.evals.<name>.features` says.

    pixels8            8 x 8 pixels: no weights, no download, and blind to detail; for the progress of a small run
    inception:FILE     Inception-v3 in safetensors: with pytorch-fid's weights the FID of the papers, with torchvision's
                       a figure of its own
    PATH               a run or an export of vitjax: its features, or embeddings of pictures
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax import augment, experiment, trees
from vitjax.errors import UserError
from vitjax.evals.generated import Network, Pictures
from vitjax.interop import inception as inception_weights
from vitjax.models.classifier import Classifier
from vitjax.models.inception import SIZE_PX, Inception

PIXELS, PIXELS_PX = "pixels8", 8
INCEPTION = "inception:"
KEY = 0  # a deterministic `predict` ignores it


def open_network(where: str) -> Network:
    """The network, its weights on the host.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    if not where:
        raise UserError(f"none is named; give {PIXELS!r}, 'inception:FILE', or the path of a run or an export")
    if where == PIXELS:
        return Network(PIXELS, {"features": jax.jit(_pixels)}, {})
    return _inception(where.removeprefix(INCEPTION)) if where.startswith(INCEPTION) else _of_run(where)


def digest(flat: Mapping[str, Any]) -> str:
    """Eight digits that stand for these arrays and their names, whatever file they come from."""
    found = hashlib.sha256()
    for name in sorted(flat):
        x = np.ascontiguousarray(flat[name])
        found.update(f"{name} {x.dtype} {x.shape}\n".encode() + x.tobytes())
    return found.hexdigest()[:8]


def inception_view(pictures: Pictures) -> Float[Array, "B 299 299 3"]:
    """Pictures as pytorch-fid gives them to its network: 299 px, bilinear without antialiasing, then -1..1.

    TensorFlow's graph of 2015 samples a fraction of a pixel beside these places, and its figures differ a little.
    """
    shape = (len(pictures), SIZE_PX, SIZE_PX, 3)
    # float32 on every device: a resize by products of bfloat16 would lose a grey level.
    with jax.default_matmul_precision("highest"):
        resized = jax.image.resize(pictures.astype(jnp.float32) / 255, shape, "bilinear", antialias=False)
    return 2 * resized - 1


def _pixels(variables: Any, pictures: Pictures) -> Float[Array, "B D"]:
    size = jnp.full((len(pictures), 2), jnp.asarray(pictures.shape[1:3]), jnp.int32)
    small = augment.center_crop(pictures, size, PIXELS_PX, 1.0, "bilinear")
    return small.reshape(len(small), -1)


def _inception(file: str) -> Network:
    from safetensors.numpy import load_file

    if not Path(file).is_file():
        raise UserError(f"there is no file {file!r}")
    if not file.endswith(".safetensors"):
        raise UserError(
            f"{file!r} is no safetensors file; make one of a torch file, without trusting it, by "
            f"python tools/convert_torch.py --weights={file} --out=inception.safetensors"
        )
    weights = load_file(file)
    found = inception_weights.read(weights)
    model = Classifier(Inception(found.variant), found.num_classes)

    def output(name: str) -> Callable[[Any, Pictures], Float[Array, "B D"]]:
        @jax.jit
        def function(variables: Any, pictures: Pictures) -> Float[Array, "B D"]:
            with jax.default_matmul_precision("highest"):
                seen = model.apply(variables, inception_view(pictures))
            bias = variables["params"]["head"]["bias"] if found.variant == "fid" else 0
            return seen["features"] if name == "features" else seen["logits"] - bias

        return function

    variables = trees.unflatten({path: np.asarray(x, np.float32) for path, x in found.variables.items()})
    name = f"inception-{found.variant}-{digest(weights)}"
    outputs = {name: output(name) for name in ("features", "logits")}
    return Network(name, outputs, variables, found.variant == "fid")


def _of_run(path: str) -> Network:
    built = experiment.read(path)
    variables = jax.tree.map(np.asarray, experiment.variables(built))
    predict, key = built.objective.predict, jax.random.key(KEY)
    known = {"features": predict.get("features", predict.get("image_embed")), "logits": predict.get("logits")}

    def output(function: Callable) -> Callable[[Any, Pictures], Float[Array, "B D"]]:
        return jax.jit(lambda variables, pictures: function(variables, _batch(pictures), key))

    outputs = {name: output(function) for name, function in known.items() if function is not None}
    return Network(f"{Path(path).name}-{digest(trees.flatten(variables))}", outputs, variables)


def _batch(pictures: Pictures) -> dict[str, Array]:
    """A batch as the loader makes them, every canvas filled."""
    n, height, width, _ = pictures.shape
    size = jnp.broadcast_to(jnp.asarray([height, width], jnp.int32), (n, 2))
    return {"image": pictures, "size": size, "row": jnp.arange(n), "valid": jnp.ones(n, bool)}
