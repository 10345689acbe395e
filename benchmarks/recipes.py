"""Configs of the published Kinetics-400 recipes."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

_K400 = Path(__file__).parents[1] / "experiments" / "k400.py"


def k400_config(options: str, settings: Mapping[str, Any]) -> ConfigDict:
    """Return the config of `experiments/k400.py:options` with `settings`, by dotted names."""
    config = runpy.run_path(str(_K400))["get_config"](options)
    config.update_from_flattened_dict(dict(settings))
    return config
