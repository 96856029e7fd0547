"""The tools are programs and no package: their folder is on the path of the tests as it is on theirs."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tools"))
