"""Old names of config keys: checkpoints that hold them still load, the command line refuses them.

This is the one table of old to new names; a key that is renamed or removed gets its line here.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vswin_jax.config.base import base_config

RENAMED: Mapping[str, str] = {
    "data.area": "data.scale",
    "data.aspect": "data.ratio",
    "data.repeats": "data.aug_repeats",
    "eval.clips": "eval.num_clips",
    "eval.crops": "eval.num_crops",
    "loss.erasing": "loss.random_erasing",
    "train.accumulate": "train.grad_accum_steps",
    "train.keep": "train.max_to_keep",
}
# `model.scan` compiled equal blocks as a loop; the parameters are the same without it.
REMOVED = ("model.scan",)


def load_saved_config(saved: Mapping[str, Any]) -> ConfigDict:
    """Build a config from the one that a checkpoint holds.

    Old names become the new ones, and a field that the checkpoint does not hold has its default.
    """
    fields = {
        RENAMED.get(path, path): value
        for path, value in _flatten(saved).items()
        if path not in REMOVED
    }
    return ConfigDict(_unflatten(_flatten(base_config().to_dict()) | fields))


def _flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for path, value in flat.items():
        *sections, name = path.split(".")
        section = fields
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return fields
