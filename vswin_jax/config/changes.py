"""Differences between the settings that a checkpoint holds and those of a run that uses it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from vswin_jax.config.renames import load_saved_config

# Settings with which training gives the same losses, up to rounding. All others change what a step
# computes, the schedule, or the order of the videos; a new setting counts as one of those
# until it is listed here. A name that ends in a dot is a section.
WITHOUT_EFFECT = (
    *("name", "plugins"),
    # The starting weights: a run that resumes has left them behind.
    *("init", "init_from", "init_published", "model.kernel_init"),
    # How the same values are computed.
    *("model.attention", "model.tokenwise", "model.token_order", "model.remat"),
    *("train.grad_accum_steps", "train.autotune", "optim.offload", "mesh."),
    # Reading, logging, saving and evaluating.
    *("data.processes", "data.threads", "data.prefetch", "data.max_bad_fraction", "eval."),
    *("train.log_every", "train.eval_every", "train.checkpoint_every", "train.max_to_keep"),
    *("train.max_bad_steps", "train.hang_after", "train.compilation_cache"),
    "train.fit_to_videos",
    # Where the videos are: their names, labels and order are compared themselves.
    *("data.kind", "data.train", "data.eval", "data.root", "data.format", "data.label_names"),
    # Settings that shape the parameters, which are compared themselves.
    *("model.name", "model.num_classes", "model.embed_dim", "model.depths", "model.num_heads"),
    *("model.patch_size", "model.patch_norm", "model.mlp_ratio", "model.qkv_bias"),
)


@dataclass(frozen=True)
class Change:
    """A setting, or a property of the data, that is not what it was.

    Attributes:
      description: a clause of a sentence.
      has_effect: True if training after the change does not continue what was before it.
    """

    description: str
    has_effect: bool


def setting_changes(saved: Mapping[str, Any], config: ConfigDict) -> list[Change]:
    """List the settings of `config` that differ from those of the `saved` config of a checkpoint.

    A setting that the checkpoint does not hold had its default.
    """
    return [
        Change(f"config.{name} is {value!r} and was {before!r}", _has_effect(name))
        for name, (value, before) in differing_settings(saved, config).items()
    ]


def differing_settings(saved: Mapping[str, Any], config: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Return the (value, saved value) of the settings of `config` that differ from `saved`."""
    before, now = _flat(load_saved_config(saved)), _flat(config)
    return {
        name: (value, before.get(name)) for name, value in now.items() if before.get(name) != value
    }


def _has_effect(name: str) -> bool:
    sections = tuple(known for known in WITHOUT_EFFECT if known.endswith("."))
    return name not in WITHOUT_EFFECT and not name.startswith(sections)


def _flat(config: ConfigDict) -> dict[str, Any]:
    # Checkpoints hold JSON, which has lists instead of tuples.
    return flatten_dict(json.loads(json.dumps(config.to_dict())), sep=".")
