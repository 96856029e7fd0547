"""Single bits flipped in the files of a checkpoint.

    python tools/torture/flips.py --workdir=/tmp/flips --count=200

Each flip has to be caught, or to have hit a byte that means nothing: then what is loaded is the same.
"""

import json
import random
import shutil
import sys

from tiny_run import TinyRun, differing, options

from vitjax.errors import UserError


def main() -> int:
    asked = options(__doc__, count=200)
    places = random.Random(asked.seed)
    run = TinyRun(asked.workdir / "run", 5, "--config.checkpoint.keep=1")
    run.finish()
    whole = run.arrays()
    folder = run.workdir / "checkpoints" / str(run.newest())
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    sizes = [path.stat().st_size for path in files]
    kept = asked.workdir / "kept"
    shutil.copytree(folder, kept, dirs_exist_ok=True)
    caught = harmless = silent = 0
    for i in range(asked.count):
        # Half of them anywhere in the bytes, half in a file of any size: metadata is small.
        file = places.choices(files, weights=sizes if i % 2 else None)[0]
        _flip(file, places.randrange(file.stat().st_size), places.randrange(8))
        try:
            same = not differing(whole, run.arrays())
            harmless, silent = harmless + same, silent + (not same)
        except UserError:
            caught += 1
        shutil.copyfile(kept / file.relative_to(folder), file)
    print(json.dumps(dict(torture="flips", bits=asked.count, caught=caught, harmless=harmless, silent=silent)))
    return int(silent > 0)


def _flip(file, at: int, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << bit
    file.write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
