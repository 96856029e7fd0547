"""SIGTERM and SIGINT at random moments.

    python tools/torture/signals.py --workdir=/tmp/signals --count=20

Each has to end with its exit code and the command that goes on, and with a checkpoint of the last step that was
logged: there are no other checkpoints in these runs. At the end the arrays have to be those of an unbroken run.
"""

import json
import random
import signal
import sys
import time

from tiny_run import TinyRun, differing, options

from vitjax.writers import read_metrics

STEPS = 1500
LONGEST_S = 15.0
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
# Before the program has started Python's own answers count: nothing has been done then.
EARLY_CODES = {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: -signal.SIGINT}


def main() -> int:
    asked = options(__doc__, count=20)
    moments = random.Random(asked.seed)
    seldom = "--config.checkpoint.every_steps=1000000"
    whole, stopped = (TinyRun(asked.workdir / name, STEPS, seldom) for name in ("whole", "stopped"))
    whole.finish()
    honoured = early = sent = lost_steps = 0
    slowest_s = 0.0
    for number in moments.choices(list(EXIT_CODES), k=asked.count):
        process = stopped.start()
        time.sleep(moments.uniform(1.0, LONGEST_S))
        if process.poll() is not None:
            break
        began = time.monotonic()
        process.send_signal(number)
        code = process.wait()
        sent += 1
        slowest_s = max(slowest_s, time.monotonic() - began)
        steps = [row["step"] for row in read_metrics(stopped.workdir)]
        lost_steps += max(steps, default=0) - stopped.newest()
        early += code == EARLY_CODES[number]
        honoured += code == EXIT_CODES[number] and "To go on" in stopped.log()[-2000:]
    stopped.finish()
    lost = differing(whole.arrays(), stopped.arrays())
    figures = dict(signals=sent, honoured=honoured, before_the_start=early, slowest_s=round(slowest_s, 1))
    figures["lost_steps"] = lost_steps
    print(json.dumps({"torture": "signals", **figures, "arrays_that_differ": len(lost)}))
    return int(bool(lost) or lost_steps > 0 or honoured + early != sent)


if __name__ == "__main__":
    sys.exit(main())
