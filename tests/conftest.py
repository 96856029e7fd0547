"""Settings that every test shares; they must stand before jax starts."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight devices; and what runs for milliseconds need not be compiled for minutes: at its usual level LLVM takes seconds
# for each shape of random numbers. Scheduled for concurrency, eight devices on two cores may begin their collectives in
# different orders, and wait for each other until XLA gives up.
for flag, value in (
    ("xla_force_host_platform_device_count", 8),
    ("xla_backend_optimization_level", 1),
    ("xla_cpu_enable_concurrency_optimized_scheduler", "false"),
):
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + f" --{flag}={value}"

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

CACHE = Path(tempfile.gettempdir()) / "vitjax-test-compilation-cache"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
# Grain reads absl flags in its worker processes; only a program run by absl has parsed them.
flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def picture_sets() -> Path:
    """The folder of real picture sets, where the environment names one."""
    if "VITJAX_DATA" not in os.environ:
        pytest.skip("VITJAX_DATA names no folder of picture sets")
    return Path(os.environ["VITJAX_DATA"])
