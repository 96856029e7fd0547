"""The run that is tortured: a tiny one as a process of its own, and what it left.

Every script here prints what it did as one line of figures, and exits with 1 where something was lost.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vitjax import checkpoint

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "--config.checkpoint.every_steps=5",
    "--config.log.every_steps=1",
    "--config.log.pictures_every_steps=0",
)


class TinyRun:
    """The quick start in its tiny form, `steps` long, in `workdir`; to be started again and again."""

    def __init__(self, workdir: Path, steps: int, *settings: str, devices: int = 1, log: Path | None = None):
        """
        Args:
          log: what the processes print is added to it; beside `workdir` by default.
        """
        self.workdir = workdir
        self._log = log or workdir.with_name(f"{workdir.name}.log")
        self._command = [
            sys.executable, "-m", "vitjax.main", f"--config={ROOT / 'configs' / 'quickstart.py'}:tiny",
            f"--workdir={workdir}", f"--config.total_steps={steps}", *SETTINGS, *settings,
        ]  # fmt: skip
        flags = f"--xla_force_host_platform_device_count={devices}"
        self._env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}

    def start(self) -> subprocess.Popen:
        """The run as a process, going on where it stopped."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with open(self._log, "a") as log:
            return subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT, env=self._env, cwd=ROOT)

    def finish(self) -> None:
        """Goes on to the end.

        Raises:
          RuntimeError: the run failed.
        """
        code = self.start().wait()
        if code:
            raise RuntimeError(f"the run in {self.workdir} ended with code {code}:\n{self.log()[-2000:]}")

    def log(self) -> str:
        """What the run has printed so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def arrays(self) -> dict[str, np.ndarray]:
        """All of the newest checkpoint."""
        return checkpoint.read_variables(self.workdir, checkpoint.ITEMS)

    def newest(self) -> int:
        """The step of the newest folder under a checkpoint's name."""
        return max((int(p.name) for p in (self.workdir / "checkpoints").glob("*") if p.name.isdecimal()), default=0)


def differing(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> list[str]:
    """The paths of arrays that are not the same to the bit."""
    bits = [{path: x.tobytes() for path, x in arrays.items()} for arrays in (a, b)]
    return [path for path in sorted({*a, *b}) if bits[0].get(path) != bits[1].get(path)]


def options(doc: str, count: int) -> argparse.Namespace:
    """The command line of every script."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="an empty folder for the tortured runs")
    parser.add_argument("--count", type=int, default=count, help="how often")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places")
    return parser.parse_args()

