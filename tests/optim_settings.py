"""Optimizer settings that tests share."""

from types import SimpleNamespace
from typing import Any


def optim_settings(**overrides: Any) -> SimpleNamespace:
    """Return the settings that `make_optimizer` reads, without ml_collections."""
    defaults = {
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "groups": "literal",
        "backbone_multiplier": 0.1,
        "clip_norm": 0.0,
    }
    return SimpleNamespace(**(defaults | overrides))
