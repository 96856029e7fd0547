"""torchvision, which open_clip and timm import, beside a build of torch that it was not made for.

PyPI's torchvision is built for CUDA. Beside a torch for CPUs its compiled operators do not load, and its import fails
at the first of them that it describes.
"""

import torch

_kept: list[torch.library.Library] = []  # one that is collected takes its declarations with it


def declare_operators() -> None:
    """Makes torchvision importable, if it is there, by declaring those operators without code."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
    except ImportError:
        pass
