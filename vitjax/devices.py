"""The devices that jax found, those that it should have found, and what it compiled for them before."""

import ctypes
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import jax

from vitjax.errors import UserError

NVIDIA = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/dxg")
TPU = ("/dev/accel0",)
# From malloc.h: M_TRIM_THRESHOLD (never), M_MMAP_MAX (none), M_ARENA_MAX.
_KEEP_FREED_MEMORY = ((-1, -1), (-4, 0), (-8, 1))

CUDA_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


def check(allow_cpu: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Nothing, if jax uses the accelerator that is there, or there is none.

    A run that was meant for an accelerator and quietly takes the CPU is found out hours later. Whoever sets
    JAX_PLATFORMS=cpu has said that it is meant.

    Raises:
      UserError: an accelerator is there and jax runs on the CPU; the message says why.
    """
    if allow_cpu or environment.get("JAX_PLATFORMS") == "cpu":
        return
    present = accelerator()
    try:
        if jax.default_backend() != "cpu" or present is None:
            return
        cause = _cause(present)
    except RuntimeError as error:
        cause = str(error).strip()
    raise UserError(
        f"this machine has {present or 'no usable device'}, and jax cannot use it: {cause}; "
        "--allow_cpu runs on the CPU all the same"
    )


def accelerator(root: Path = Path("/")) -> str | None:
    """The accelerator that the operating system shows, whether or not jax can use it."""
    if any((root / path.lstrip("/")).exists() for path in NVIDIA):
        return "an NVIDIA GPU"
    if any((root / path.lstrip("/")).exists() for path in TPU):
        return "a TPU"
    return None


def run_once() -> dict[str, int] | None:
    """Compiler options of a program that runs once, such as the initial weights, which is compiled for longer than run.

    For CPUs LLVM takes seconds for each shape of random numbers at its usual level, and a tenth of that at its first.
    """
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None


def cache_folder() -> Path:
    """$VITJAX_CACHE, else vitjax in the user's cache folder."""
    home = os.environ.get("VITJAX_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "vitjax"
    return Path(home).expanduser()


def compilation_cache() -> Path:
    """Where compiled programs are kept between runs, so that a second start compiles nothing."""
    return cache_folder() / "compiled"


def use_compilation_cache() -> None:
    """Turns the persistent compilation cache on, unless the user's jax settings already did."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(compilation_cache()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def keep_freed_memory() -> None:
    """Tells glibc to keep what is freed for the next allocation; to be called before jax starts its threads.

    XLA's CPU client allocates the temporaries of a step anew each time. By default glibc gives that much
    memory back to the system and takes it again, zeroed, page by page: a third of the time of a step of a
    small model. One arena is what makes freed memory reusable by any thread. Beside an accelerator, and
    where there is no glibc, nothing is changed.
    """
    if accelerator() is not None or not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _KEEP_FREED_MEMORY:
            mallopt(option, value)


def _cause(present: str) -> str:
    """Why jax took the CPU beside an accelerator."""
    if "TPU" in present:
        if importlib.util.find_spec("libtpu") is None:
            return "libtpu is not installed: pip install 'vitjax[tpu]'"
        return "libtpu is installed but did not start; another process may hold the TPU"
    if not any(importlib.util.find_spec(plugin) for plugin in CUDA_PLUGINS):
        return "jax's CUDA plugin is not installed: pip install 'vitjax[cuda]'"
    return "the CUDA plugin is installed but did not start; check the driver with nvidia-smi, and jax's log above"
