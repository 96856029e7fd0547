"""One run on other numbers of devices, and moved from one to the next in the middle.

    python tools/torture/meshes.py --workdir=/tmp/meshes

Losses on every mesh have to be equal to 1e-5 of those on one device.
"""

import json
import sys

import numpy as np
from tiny_run import TinyRun, options

from vitjax.writers import read_metrics

STEPS = 12
MESHES = {"1": (1, 1, 1, 1), "8x1x1": (8, 8, 1, 1), "1x8x1": (8, 1, 8, 1), "2x2x2": (8, 2, 2, 2), "2x4x1": (8, 2, 4, 1)}
# Wide enough that the matrices are really split.
WIDE = ("--config.model.width=128", "--config.model.mlp_dim=512", "--config.model.heads=4")


def main() -> int:
    asked = options(__doc__, count=1)
    losses = {}
    for name in MESHES:
        run = _on(asked.workdir / name, name, STEPS)
        run.finish()
        losses[name] = _losses(run)
    for steps, name in zip(range(3, STEPS + 1, 3), ("8x1x1", "1", "2x2x2", "1x8x1")):
        run = _on(asked.workdir / "moved", name, steps)
        run.finish()
    losses["moved"] = _losses(run)
    worst = {name: float(np.abs(x / losses["1"] - 1).max()) for name, x in losses.items()}
    print(json.dumps({"torture": "meshes", "largest relative difference of a loss": worst}))
    return int(max(worst.values()) > 1e-5)


def _on(workdir, name: str, steps: int) -> TinyRun:
    devices, *sizes = MESHES[name]
    mesh = [f"--config.mesh.{axis}={size}" for axis, size in zip(("data", "fsdp", "tensor"), sizes)]
    return TinyRun(workdir, steps, *WIDE, *mesh, "--config.optim.schedule=constant", devices=devices)


def _losses(run: TinyRun) -> np.ndarray:
    return np.array([row["train/loss"] for row in read_metrics(run.workdir)])


if __name__ == "__main__":
    sys.exit(main())
