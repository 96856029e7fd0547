"""Made pictures beside real ones, as a network sees them: what the evaluators of generators share.

The numbers of these evaluators are of a network as much as of a generator: only those of the same one can be compared.
So every result names it, with a digest of its weights ('features/inception-fid-1a2b3c4d'), and a distance is called
FID only on the network that FID is defined with; elsewhere it is 'fid_like'.

Real pictures are cut as for evaluation, at the generator's size, and rounded to 8 bits as the made ones are. A made
picture depends on its number alone, so n is exact for any batch size and any number of devices.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from vitjax import augment, sharding
from vitjax.errors import UserError
from vitjax.evals import features

Pictures = UInt8[Array, "B S S 3"]

# The numbers of these evaluators, in the order of the table.
FIGURES = ("fid", "fid_like", "kid", "kid_like", "inception_score", "inception_score_like", "precision", "recall")


class Network(NamedTuple):
    """What pictures are compared by.

    Attributes:
      name: it and its weights, as the result has it.
      outputs: 'features' or 'logits' -> (variables, uint8 pictures of any size) -> [B, D], compiled.
      variables: its weights.
      is_reference: whether it is the network that FID and the inception score are defined with.
    """

    name: str
    outputs: Mapping[str, Callable[[Any, Pictures], Float[Array, "B D"]]]
    variables: Any
    is_reference: bool = False

    def placed(self, mesh: Mesh) -> "Network":
        """The same, its weights on all devices."""
        return self._replace(variables=jax.device_put(self.variables, sharding.replicated(mesh)))

    def figure(self, name: str) -> str:
        """What `name` ('fid') is called on this network."""
        return name if self.is_reference else f"{name}_like"


class Sets(NamedTuple):
    """Outputs of a network for real pictures and for made ones."""

    real: features.Features
    made: Float[np.ndarray, "n D"]
    network: str

    def summary(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The figures, how many pictures of which kind they come from, and the network with its number of features."""
        counts = {"n": len(self.made), "n_real": self.real.n, "n_bad": self.real.n_bad}
        return {**figures, **counts, f"features/{self.network}": self.made.shape[1]}


class Choice(NamedTuple):
    """Which pictures an evaluator compares, and by what: its settings."""

    split: str
    examples: int
    samples: int
    network: str

    def sets(self, extract: features.Extract, output: str) -> Sets:
        """Both sets; each is looked at once for all evaluators that use the same network."""
        real = _real(extract, output, self.split, self.examples)
        return Sets(real, _made(extract, output, self.samples), extract.network.name)


def choice(config: Any, least: int) -> Choice:
    """The settings of an evaluator that needs `least` pictures of both kinds.

    Raises:
      UserError: there would be fewer.
    """
    for name, value in (("samples", config.samples), ("eval_examples", config.eval_examples or least)):
        if value < least:
            raise UserError(f"config.evals.{config.name}.{name}={value} must be {least} or more")
    return Choice(config.eval_split, config.eval_examples, config.samples, config.features)


def real_pictures(config_data: Any) -> Callable[[Mapping[str, Array]], Pictures]:
    """batch -> the middle of each picture as evaluation cuts it, 8 bits a colour."""
    view = augment.eval_pictures(config_data, config_data.size_px)
    return jax.jit(lambda batch: augment.to_uint8(view(batch), (0.0,) * 3, (1.0,) * 3))


def table(metrics: Mapping[str, float]) -> str:
    """The figures, those of a fresh generator beside those of the trained one; '' where there are none.

    Args:
      metrics: 'eval/<evaluator>/<figure>' and 'eval/<evaluator>/random_init/<figure>' -> number.
    """
    rows = [("", "trained", "random init", "n")]
    for figure, evaluator in sorted(_figures(metrics), key=lambda found: FIGURES.index(found[0])):
        values = [metrics.get(f"eval/{evaluator}/{prefix}{figure}") for prefix in ("", "random_init/")]
        shown = ("-" if value is None else f"{value:.4g}" for value in values)
        name = f"{evaluator}: {figure} on {_network_of(metrics, evaluator)}"
        rows.append((name, *shown, f"{metrics[f'eval/{evaluator}/n']:,}"))
    width = max(24, *(len(name) for name, *_ in rows))
    lines = (f"{name:{width}}{trained:>13}{fresh:>13}{n:>10}" for name, trained, fresh, n in rows)
    return "\n".join(lines) if rows[1:] else ""


def _figures(metrics: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """(figure, evaluator) of the trained generator's numbers."""
    for key in metrics:
        evaluator, _, figure = key.removeprefix("eval/").partition("/")
        if figure in FIGURES:
            yield figure, evaluator


def _network_of(metrics: Mapping[str, float], evaluator: str) -> str:
    prefix = f"eval/{evaluator}/features/"
    return next(key.removeprefix(prefix) for key in metrics if key.startswith(prefix))


def _real(extract: features.Extract, output: str, split: str, limit: int) -> features.Features:
    key = (extract.network.name, output, split, limit)
    if key not in extract.real:
        batches = extract.told(split, extract.batches(split, limit))
        extract.real[key] = features.extract(_seen(extract, "real", output), batches, (), extract.mesh)
    return extract.real[key]


def _made(extract: features.Extract, output: str, n: int) -> Float[np.ndarray, "n D"]:
    key = (f"{extract.network.name}/{output}", "", n)
    if key not in extract.done:
        generate = _seen(extract, "generate", output)
        extract.done[key] = features.extract(generate, _numbers(extract, n), (), extract.mesh)
    return extract.done[key].x


def _seen(extract: features.Extract, pictures: str, output: str) -> Callable[[Mapping[str, Array]], Array]:
    """batch -> the network's output for the pictures that the function `pictures` makes of a batch."""
    make, see, variables = extract.functions[pictures], extract.network.outputs[output], extract.network.variables
    return lambda batch: see(variables, make(batch))


def _numbers(extract: features.Extract, n: int) -> Iterator[dict[str, np.ndarray]]:
    """This process's rows of every batch of numbers 0..n-1; the last one is filled up with more."""
    mine = sharding.local_rows(extract.mesh, extract.batch_size)
    bad = np.full(len(mine), -1, np.int64)
    for start in range(0, n, extract.batch_size):
        extract.tell(f"drawing pictures from {start:,} of {n:,}")
        row = (start + mine).astype(np.int32)
        yield {"row": row, "valid": row < n, "bad_index": bad}
