"""Checks of the values of a config, done once before a run begins."""

import math
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from vswin_jax.config.base import base_config
from vswin_jax.config.setting_values import example, get_value
from vswin_jax.errors import InputError, unknown_name


def check(config: ConfigDict, *, divides: bool = True) -> None:
    """Refuse a finished config with values that are wrong or contradict each other.

    Without `divides` a batch that does not divide into micro-batches is accepted, for a dry run,
    which chooses another.

    Raises:
      InputError: naming the field, what it may be and what came.
    """
    for path, names in _NAMES.items():
        value = get_value(config, path)
        if value not in names:
            raise unknown_name(f"value of config.{path}", str(value), names)
    for meaning, is_met, paths in _RULES:
        for path in paths.split():
            value = get_value(config, path)
            if value is not None and not is_met(value):
                raise _wrong_value(path, meaning, value)
    if divides:
        _check_batch_divides(config)
    mirrors = config.data.flip or config.data.rand_augment.n or config.data.augmentations
    if config.data.flip_labels and not mirrors:
        raise InputError(
            f"config.data.flip_labels is {config.data.flip_labels!r} but no clip is ever mirrored: "
            f"set config.data.flip or config.data.rand_augment.n, or leave it out."
        )
    if not config.train.compilation_cache:
        raise InputError(
            "Expected config.train.compilation_cache to be 'workdir', 'off' or a directory but it "
            "is empty: give one of them."
        )
    if config.init == "scratch" and config.init_from:
        raise InputError(
            "config.init is 'scratch' but config.init_from names weights: leave out one of them, "
            "or set config.init=pretrained to start from these weights."
        )


def _check_batch_divides(config: ConfigDict) -> None:
    if config.train.batch_size % config.train.grad_accum_steps:
        raise InputError(
            f"Expected config.train.batch_size ({config.train.batch_size}) to be a multiple of "
            f"config.train.grad_accum_steps ({config.train.grad_accum_steps}): change one of them."
        )
    if config.train.batch_size % config.data.aug_repeats:
        raise InputError(
            f"Expected config.train.batch_size ({config.train.batch_size}) to be a multiple of "
            f"config.data.aug_repeats ({config.data.aug_repeats}): change one of them."
        )


def _wrong_value(path: str, meaning: str, value: Any) -> InputError:
    default = get_value(base_config(), path)
    shown = f", such as {example(path, default)}," if isinstance(value, list | tuple) else ""
    return InputError(f"Expected config.{path} to be {meaning}{shown} but {value!r} came.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


_NAMES = {
    "init": ("pretrained", "scratch"),
    "model.dtype": ("float32", "bfloat16"),
    "data.kind": ("files", "moving_shapes"),
    "data.sampling": ("dense", "uniform"),
    "optim.groups": ("literal", "intended"),
    "optim.schedule": ("epoch_cosine", "cosine"),
    "optim.moment_dtype": ("float32", "bfloat16"),
    "eval.checkpoint": ("latest", "best"),
    "mesh.window_over": ("time", "height"),
}

_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    (
        "1 or more",
        lambda value: value >= 1,
        "model.num_classes model.embed_dim data.num_frames data.frame_interval data.resize "
        "data.size data.aug_repeats data.prefetch train.batch_size train.grad_accum_steps "
        "train.max_to_keep eval.batch_size eval.num_clips eval.resize eval.views_per_pass",
    ),
    (
        "0 or more and finite",
        lambda value: 0 <= value < math.inf,
        "data.threads data.fps optim.learning_rate optim.weight_decay optim.eps optim.clip_norm "
        "optim.backbone_multiplier loss.mixup_alpha loss.cutmix_alpha train.max_bad_steps "
        "train.hang_after",
    ),
    ("a whole number, or -1 for one a core", lambda n: n >= -1, "data.processes"),
    ("-1 for none, or a number of stages", lambda n: n >= -1, "model.frozen_stages"),
    ("a number above 0", _is_number, "model.mlp_ratio model.qk_scale"),
    ("a whole number of at most 63 bits", lambda n: -(2**63) <= n < 2**63, "seed"),
    ("from 0 to 18, the operations that there are", lambda n: 0 <= n <= 18, "data.rand_augment.n"),
    ("from 0 to 30, the full strength", lambda m: 0 <= m <= 30, "data.rand_augment.m"),
    (
        "from 0 to 1",
        lambda value: 0 <= value <= 1,
        "data.flip data.class_balance data.max_bad_fraction loss.random_erasing optim.warmup_ratio",
    ),
    (
        "from 0 to below 1",
        lambda value: 0 <= value < 1,
        "model.drop_rate model.attn_drop_rate model.drop_path_rate model.head_dropout_rate "
        "train.ema_decay loss.label_smoothing optim.b1 optim.b2",
    ),
    (
        "three positive whole sizes (time, height, width)",
        lambda value: len(value) == 3 and all(map(_is_count, value)),
        "model.window_size model.patch_size",
    ),
    (
        "positive whole numbers, one a stage",
        lambda value: len(value) > 0 and all(map(_is_count, value)),
        "model.depths model.num_heads",
    ),
    (
        "two positive numbers, the smaller one first",
        lambda value: len(value) == 2 and all(map(_is_number, value)) and value[0] <= value[1],
        "data.scale data.ratio",
    ),
    ("1, 3 or 5", lambda value: value in (1, 3, 5), "eval.num_crops"),
    (
        "a number of devices, or -1 for the rest of them",
        lambda value: value == -1 or value > 0,
        "mesh.data mesh.fsdp mesh.model mesh.window",
    ),
)
