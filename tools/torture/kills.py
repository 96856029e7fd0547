"""SIGKILL at random moments, also while a checkpoint is being written.

    python tools/torture/kills.py --workdir=/tmp/kills --count=50

The run that was killed again and again has to end with the arrays of one that nobody touched.
"""

import json
import random
import sys
import time

from tiny_run import TinyRun, differing, options

from vitjax.writers import read_metrics

STEPS = 1500
LONGEST_S = 15.0


def main() -> int:
    asked = options(__doc__, count=50)
    moments = random.Random(asked.seed)
    whole, killed = (TinyRun(asked.workdir / name, STEPS) for name in ("whole", "killed"))
    whole.finish()
    kills = saving = 0
    while kills < asked.count:
        process = killed.start()
        time.sleep(moments.uniform(1.0, LONGEST_S))
        if process.poll() is not None:
            # It has come to its end: the rest of the kills go to a new one.
            killed = _renewed(killed, asked.workdir / f"killed_{kills}")
            continue
        process.kill()
        process.wait()
        kills += 1
        saving += any((killed.workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
    killed.finish()
    lost = differing(whole.arrays(), killed.arrays())
    steps = [row["step"] for row in read_metrics(killed.workdir)]
    twice = len(steps) - len(set(steps))
    figures = dict(kills=kills, while_saving=saving, arrays_that_differ=len(lost), steps=len(steps), steps_twice=twice)
    print(json.dumps({"torture": "kills", **figures}))
    return int(bool(lost) or twice > 0 or len(steps) != STEPS)


def _renewed(finished: TinyRun, workdir) -> TinyRun:
    if finished.newest() != STEPS:
        raise RuntimeError(f"{finished.workdir} stopped by itself at {finished.newest()}:\n{finished.log()[-2000:]}")
    return TinyRun(workdir, STEPS)


if __name__ == "__main__":
    sys.exit(main())
