"""Inception-v3 as torchvision, timm and pytorch-fid keep it: one layout, told apart by the number of classes.

Of torchvision's files the auxiliary classifier is left out; a model with `aux_logits=False` takes what is written.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from vitjax import trees
from vitjax.errors import UserError
from vitjax.interop import table
from vitjax.interop.table import Row
from vitjax.models.inception import LEAST_PX, Inception

AUXILIARY = "AuxLogits."
CLASSIFIER = "fc.weight"
# The graph of December 2015 has 1,008 outputs, of which a thousand are classes of ImageNet.
FID_CLASSES = 1008


class Found(NamedTuple):
    """What a file holds: which of the model's variants, how many classes, and our flat variables."""

    variant: str
    num_classes: int
    variables: dict[str, np.ndarray]


def read(weights: Mapping[str, np.ndarray]) -> Found:
    """The network of these weights, backbone and head.

    Raises:
      UserError: they are of something else.
    """
    if CLASSIFIER not in weights:
        raise UserError(f"these weights have no {CLASSIFIER!r}: they are not those of an Inception-v3")
    num_classes = len(weights[CLASSIFIER])
    variant = "fid" if num_classes == FID_CLASSES else "torchvision"
    own = {name: x for name, x in weights.items() if not name.startswith(AUXILIARY)}
    return Found(variant, num_classes, table.read(own, rows()))


def rows() -> list[Row]:
    """The table: our modules have their names, and a unit of ours a convolution and a batch norm of theirs."""
    units = [row for path in _units() for row in _unit(path)]
    return units + table.linear("params/head", "fc")


@functools.cache
def _units() -> tuple[str, ...]:
    """The paths of all units; the module knows them, but takes a second to say so."""
    shape, kernel = jax.ShapeDtypeStruct((1, LEAST_PX, LEAST_PX, 3), np.float32), "/conv/kernel"
    made = trees.flatten(jax.eval_shape(Inception().init, jax.random.key(0), shape)["params"])
    return tuple(path.removesuffix(kernel) for path in made if path.endswith(kernel))


def _unit(path: str) -> list[Row]:
    theirs = path.replace("/", ".")
    return [
        table.conv(f"params/backbone/{path}/conv", f"{theirs}.conv"),
        *table.norm(f"params/backbone/{path}/bn", f"{theirs}.bn"),
        table.same(f"batch_stats/backbone/{path}/bn/mean", f"{theirs}.bn.running_mean"),
        table.same(f"batch_stats/backbone/{path}/bn/var", f"{theirs}.bn.running_var"),
        table.dropped(f"{theirs}.bn.num_batches_tracked", np.zeros((), np.int64)),
    ]
