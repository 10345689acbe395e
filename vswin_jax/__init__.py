"""Video Swin Transformer in JAX: train, fine-tune, evaluate and run it, at any scale.

In comments "the reference" is the authors' PyTorch code, SwinTransformer/Video-Swin-Transformer on
GitHub: a fork of mmaction2 0.15.0 that runs on mmcv 1.3.3.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Loaded at first use, so that `import vswin_jax` is fast and no room pulls in another's
# dependencies. Each of `_MODULES` is both a module (the command) and a function (its `__call__`).
_LAZY = {
    "InputError": "vswin_jax.errors",
    "Prediction": "vswin_jax.inference",
    "Predictor": "vswin_jax.inference",
    "UnreadableVideo": "vswin_jax.inference",
    "create_model": "vswin_jax.models",
    "init_params": "vswin_jax.models",
    "load": "vswin_jax.inference",
    "load_weights": "vswin_jax.weights",
    "predict_each": "vswin_jax.inference",
    "predict_to_file": "vswin_jax.inference",
}
_MODULES = ("combine", "explain", "export", "features", "predict", "serve", "timeline")

__all__ = [
    "InputError",
    "Prediction",
    "Predictor",
    "UnreadableVideo",
    "combine",
    "create_model",
    "explain",
    "export",
    "features",
    "init_params",
    "load",
    "load_weights",
    "predict",
    "predict_each",
    "predict_to_file",
    "serve",
    "timeline",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
