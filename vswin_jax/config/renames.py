"""Old names of config keys: checkpoints that hold them still load, the command line refuses them.

This is the one table of old to new names; a key that is renamed or removed gets its line here.
"""

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict
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
    """Build a config from the one that a checkpoint holds, with the types of `base_config`.

    Old names become the new ones, and a field that the checkpoint does not hold has its default.
    """
    stored = flatten_dict(dict(saved), sep=".")
    fields = {RENAMED.get(path, path): v for path, v in stored.items() if path not in REMOVED}
    config = base_config()
    # JSON has no tuples, and a program that calls `train` itself may have fields of its own.
    with config.unlocked(), config.ignore_type():
        config.update(unflatten_dict(fields, sep="."))
    return config
