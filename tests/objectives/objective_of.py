"""An objective of a tiny config, without data."""

from pathlib import Path

import jax
import numpy as np

from vitjax import cli, experiment
from vitjax.config import Tracked
from vitjax.objective import Run

CONFIGS = Path(__file__).parents[2] / "configs"
PX, B = 32, 8


def config_of(name, arg="tiny"):
    return cli.load_config([f"--config={CONFIGS / name}.py:{arg}"])


def build(config, classes=5):
    spec = {
        "image": ((B, PX, PX, 3), np.uint8), "size": ((B, 2), np.int32), "row": ((B,), np.int32),
        "valid": ((B,), bool), "label": ((B,), np.int32),
    }  # fmt: skip
    shapes = {name: jax.ShapeDtypeStruct(shape, np.dtype(dtype)) for name, (shape, dtype) in spec.items()}
    run = Run(10, 10.0, B, shapes, {"label": tuple(map(str, range(classes)))}, np.float32)
    return experiment.build(Tracked(config), run)


def batch_of(labels=None, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (B, PX, PX, 3), np.uint8),
        "size": np.full((B, 2), PX, np.int32),
        "row": np.arange(B, dtype=np.int32),
        "valid": np.ones(B, bool),
        "label": (np.arange(B) % 5 if labels is None else np.asarray(labels)).astype(np.int32),
    }
