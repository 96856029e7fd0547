"""A disk that is full, again and again, each time with a little more room.

    python tools/torture/full_disk.py --workdir=/tmp/full --count=8      (as root: it mounts a small tmpfs)

Each time the run has to stop with a clear message and leave every older checkpoint as it was; with room it has
to end with the arrays of a run that never saw a full disk.
"""

import json
import subprocess
import sys
from pathlib import Path

from tiny_run import TinyRun, differing, options

STEPS = 60
KILOBYTES = 1500
MORE = 700


def main() -> int:
    asked = options(__doc__, count=8)
    disk = asked.workdir / "disk"
    disk.mkdir(parents=True, exist_ok=True)
    # What is kept grows until the disk is full.
    keep = "--config.checkpoint.keep=0"
    whole = TinyRun(asked.workdir / "whole", STEPS, keep)
    full = TinyRun(disk / "run", STEPS, keep, log=asked.workdir / "full.log")
    whole.finish()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={KILOBYTES}k", "tmpfs", str(disk)], check=True)
    try:
        stops, unclear, harmed = _fill(full, disk, asked.count)
        subprocess.run(["mount", "-o", "remount,size=512m", str(disk)], check=True)
        full.finish()
        lost = differing(whole.arrays(), full.arrays())
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    figures = dict(stops=stops, unclear=unclear, harmed=harmed, arrays_that_differ=len(lost))
    print(json.dumps({"torture": "full_disk", **figures}))
    return int(bool(unclear or harmed or lost) or not stops)


def _fill(run: TinyRun, disk: Path, count: int) -> tuple[int, int, int]:
    """(how often the run stopped for want of room, without a clear message, having harmed a checkpoint)."""
    stops = unclear = harmed = 0
    for i in range(count):
        subprocess.run(["mount", "-o", f"remount,size={KILOBYTES + i * MORE}k", str(disk)], check=True)
        before, shown = _checkpoints(run), len(run.log())
        if run.start().wait() == 0:
            break
        stops += 1
        said = run.log()[shown:]
        unclear += "No space left" not in said or "Traceback" in said
        after = _checkpoints(run)
        harmed += any(after.get(name) != files for name, files in before.items())
    return stops, unclear, harmed


def _checkpoints(run: TinyRun) -> dict[str, dict[str, bytes]]:
    """Checkpoint -> file -> content."""
    folders = [p for p in (run.workdir / "checkpoints").glob("*") if p.name.isdecimal()]
    return {p.name: {str(f): f.read_bytes() for f in p.rglob("*") if f.is_file()} for p in folders}


if __name__ == "__main__":
    sys.exit(main())
