"""What a spawned process runs in place of the command that started it.

Python runs the parent's main module again in each process that it spawns. For a command of vitjax that would be
all imports of training, and grain imports jax wherever it finds it: seconds, for what no decoder needs.
"""

import os
import sys

from absl import logging

os.environ["JAX_PLATFORMS"] = "cpu"  # for a user's own source that imports jax after all
if "jax" not in sys.modules:
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # grain warns that it has no jax
    sys.modules["jax"] = None
    import grain  # noqa: F401

    del sys.modules["jax"]
    logging.set_verbosity(verbosity)
