"""The libraries that ours is compared with, where they are installed."""

from types import ModuleType

import pytest


def torch() -> ModuleType:
    """torch, beside which torchvision can be imported."""
    module = pytest.importorskip("torch")
    import foreign_torchvision

    foreign_torchvision.declare_operators()
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
