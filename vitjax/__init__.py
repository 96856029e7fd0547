"""vitjax: large-scale visual pretraining in JAX.

In a notebook::

    import vitjax
    model = vitjax.load("runs/quickstart")
    features = model.features(pictures)      # uint8 [B, H, W, 3] -> float32 [B, D]

The names below are imported when first used, so that the loader's worker processes, which import
`vitjax.data`, never start jax.
"""

import importlib

__version__ = "0.1.0"

_LAZY = {
    "load": "vitjax.model",
    "Model": "vitjax.model",
    "knn": "vitjax.evals.knn",
    "linear_probe": "vitjax.evals.linear",
}
__all__ = ["__version__", *_LAZY]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'vitjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__():
    return sorted(__all__)
