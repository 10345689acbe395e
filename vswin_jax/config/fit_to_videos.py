"""Batch size, schedule and intervals that suit the number of training videos.

A config with `train.fit_to_videos` leaves them open: they are chosen when the command line is read,
and the config that a run saves has the numbers. A run that resumes keeps those of its checkpoint.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vswin_jax.data.sources.sources import open_source
from vswin_jax.errors import InputError

FITTED = (
    *("train.batch_size", "train.grad_accum_steps", "train.duration", "train.log_every"),
    *("train.eval_every", "train.checkpoint_every", "optim.warmup"),
)
_BATCH, _MICRO_BATCH = 16, 4
_EPOCHS, _MAX_EPOCHS = 12, 50
# A head from random weights needs about that many steps, however few the videos are.
_MIN_STEPS = 200
_LONG_EPOCH = 100  # steps, whose loss in a kill would hurt
_EVALUATIONS, _LOG_LINES, _MAX_LOG_STEPS = 10, 50, 20


def fit_to_videos(
    config: ConfigDict, overrides: Sequence[str], saved: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Fit the settings `FITTED` of `config` in place, but those that `overrides` name.

    `saved` is the config of the checkpoint to resume from, or None. Returns the lines for the log.
    """
    if not config.train.get("fit_to_videos", False):
        return ()
    named = {
        argument.lstrip("-").partition("=")[0].removeprefix("config.") for argument in overrides
    }
    free = [name for name in FITTED if name not in named]
    if saved is not None:
        _set(config, {name: _get(saved, name) for name in free if _get(saved, name) is not None})
        return ()
    num_videos = _count_videos(config)
    if not num_videos or not free:
        return ()
    chosen = choose(config, num_videos * config.data.aug_repeats, named)
    _set(config, {name: chosen[name] for name in free})
    settings = ", ".join(f"{name}={chosen[name]}" for name in free)
    return (
        f"chosen for {num_videos} training videos: {settings}; to change one, add it, such as "
        f'--config.{free[0]}="{chosen[free[0]]}"',
    )


def choose(config: ConfigDict, num_examples: int, named: Collection[str] = ()) -> dict[str, Any]:
    """Return values of `FITTED` for an epoch of `num_examples`; what is `named` is the config's."""
    batch = config.train.batch_size
    if "train.batch_size" not in named:
        is_split = "train.grad_accum_steps" in named
        parts = config.train.grad_accum_steps if is_split else 1
        factor = math.lcm(parts, config.data.aug_repeats)
        batch = math.ceil(_batch_size(num_examples) / factor) * factor
    steps_per_epoch = num_examples / batch
    epochs = min(max(_EPOCHS, math.ceil(_MIN_STEPS / steps_per_epoch)), _MAX_EPOCHS)
    if "train.duration" in named:
        epochs = _in_epochs(config.train.duration, steps_per_epoch, num_examples) or epochs
    interval = f"{max(2, round(epochs / _EVALUATIONS))} epochs"
    log_steps = min(max(1, round(epochs * steps_per_epoch / _LOG_LINES)), _MAX_LOG_STEPS)
    return {
        "train.batch_size": batch,
        "train.grad_accum_steps": _micro_batches(batch),
        "train.duration": f"{epochs:g} epochs",
        "train.log_every": f"{log_steps} steps",
        "train.eval_every": interval,
        "train.checkpoint_every": "1 epochs" if steps_per_epoch >= _LONG_EPOCH else interval,
        "optim.warmup": f"{epochs / _EPOCHS:.2g} epochs",
    }


def _batch_size(num_examples: int) -> int:
    """Return a power of 2 of which an epoch has four, if that is possible."""
    quarter = 2 ** int(math.log2(max(num_examples / 4, 1)))
    all_of_them = 2 ** int(math.log2(num_examples))
    return min(max(quarter, _MICRO_BATCH), all_of_them, _BATCH)


def _micro_batches(batch_size: int) -> int:
    """Return the least number of equal micro-batches of at most `_MICRO_BATCH` clips."""
    fitting = (n for n in range(1, batch_size + 1) if batch_size % n == 0)
    return next(n for n in fitting if batch_size // n <= _MICRO_BATCH)


def _in_epochs(duration: str, steps_per_epoch: float, num_examples: int) -> float | None:
    match = re.fullmatch(r"\s*([\d.]+)\s*(epoch|step|example)s?\s*", duration)
    if match is None:
        return None  # The training's own parser reports it.
    lengths = {"epoch": 1.0, "step": steps_per_epoch, "example": num_examples}
    return float(match[1]) / lengths[match[2]]


def _count_videos(config: ConfigDict) -> int:
    """Return the number of training videos; 0 if there are none yet or they cannot be listed."""
    data = config.data
    if data.kind != "files" or not data.train:
        return 0
    try:
        return len(
            open_source(
                data.train,
                root=data.root,
                kind=data.format,
                num_classes=config.model.num_classes,
                must_exist=False,
                multi_label=data.multi_label,
            )
        )
    except InputError:
        return 0  # The run reports it when it opens the videos.


def _get(config: Mapping[str, Any], name: str) -> Any:
    section, _, key = name.partition(".")
    return config.get(section, {}).get(key)


def _set(config: ConfigDict, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        section, _, key = name.partition(".")
        config[section][key] = value
