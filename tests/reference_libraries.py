"""The libraries that ours is compared with, where they are installed."""

from types import ModuleType

import pytest


def torch() -> ModuleType:
    """torch, with one thing more: torchvision can be imported beside a build of torch that it was not made for.

    PyPI's torchvision is built for CUDA. Beside a torch for CPUs its compiled operators do not load, and its
    import fails at the first of them that it describes, so these are declared (without code) before.
    """
    module = pytest.importorskip("torch")
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = module.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        # A library that is collected takes its declarations with it.
        module.vitjax_test_library = library
    except ImportError:
        pass
    return module


def timm() -> ModuleType:
    torch()
    return pytest.importorskip("timm")


def transformers() -> ModuleType:
    torch()
    return pytest.importorskip("transformers")


def open_clip() -> ModuleType:
    torch()
    return pytest.importorskip("open_clip")
