"""The settings of an evaluation: those in its summary, and the name of its directory.

`evaluation` is for the run's own settings and its latest checkpoint. An evaluation under others
gets a directory that is named by the differences, such as `evaluation-10x3` or `evaluation-best`,
so it never replaces the run's own score.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from ml_collections import ConfigDict

from vswin_jax.config.changes import differing_settings
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.example import Source
from vswin_jax.evaluation.evaluated_weights import EvaluatedWeights
from vswin_jax.training.resume_check import DATA

OWN = "evaluation"
_SECTIONS = ("model.", "data.", "eval.")
# Settings of those sections that do not change what a video's views are or what the model makes of
# them, up to rounding; a new one counts as a difference until it is listed here.
_WITHOUT_EFFECT = (
    *("model.attention", "model.tokenwise", "model.token_order", "model.remat"),
    *("model.kernel_init", "model.frozen_stages", "model.num_classes", "model.drop_rate"),
    *("model.attn_drop_rate", "model.drop_path_rate", "model.head_dropout_rate"),
    *("data.train", "data.processes", "data.threads", "data.prefetch", "data.max_bad_fraction"),
    *("data.resize", "data.scale", "data.ratio", "data.flip", "data.flip_labels"),
    *("data.rand_augment.n", "data.rand_augment.m", "data.augmentations", "data.class_balance"),
    *("data.aug_repeats", "data.batch_augmentations"),
    *("eval.batch_size", "eval.views_per_pass", "eval.strict"),
    # The videos and the step are compared themselves.
    *("data.kind", "data.eval", "data.root", "data.format", "data.label_names"),
    "eval.checkpoint",
)
_VIEWS = ("eval.num_clips", "eval.num_crops")
_PLAIN = re.compile(r"[\w.]{1,24}")
_MAX_LENGTH = 120


def describe_views(spec: ClipSpec) -> str:
    """Format the views of a video, such as "1 clip, centre crop of 64 pixels, short side 72"."""
    clips = f"{spec.num_clips} clip{'s' if spec.num_clips > 1 else ''}"
    crops = "centre crop" if spec.num_crops == 1 else f"{spec.num_crops} crops"
    return f"{clips}, {crops} of {spec.size} pixels, short side {spec.eval_short_side}"


def summary_settings(config: ConfigDict, spec: ClipSpec) -> dict[str, Any]:
    """Return the settings that summary.json records."""
    return {
        "config": config.name,
        "views": f"{spec.num_clips}x{spec.num_crops}",
        "size": spec.size,
        "resize": spec.eval_short_side,
        "num_frames": spec.num_frames,
        "frame_interval": spec.frame_interval,
        "dtype": config.model.dtype,
    }


def directory_name(
    config: ConfigDict, weights: EvaluatedWeights, latest_step: int | None, source: Source
) -> str:
    """Return the name of the directory for an evaluation of `weights` under `config`.

    `latest_step` is that of the workdir's run.
    """
    saved = weights.metadata.get("config")
    if not saved:
        return OWN
    parts = [*_changes(saved, config)]
    known = weights.metadata.get(DATA, {}).get("eval", {}).get("identity")
    if known != source.identity:
        parts.append(f"{_short(config.data.eval or config.data.kind)}-{source.identity[:6]}")
    if config.eval.checkpoint == "best" and weights.step != latest_step:
        parts.append("best")
    name = "-".join([OWN, *parts])
    return name if len(name) <= _MAX_LENGTH else f"{name[:_MAX_LENGTH]}-{_digest(name)}"


def _changes(saved: Mapping[str, Any], config: ConfigDict) -> Iterator[str]:
    changed = {
        name: value
        for name, (value, _) in differing_settings(saved, config).items()
        if name.startswith(_SECTIONS) and name not in _WITHOUT_EFFECT
    }
    if any(name in changed for name in _VIEWS):
        yield f"{config.eval.num_clips}x{config.eval.num_crops}"
    for name, value in changed.items():
        if name not in _VIEWS:
            yield f"{name.partition('.')[2]}-{_short(value)}"


def _short(value: Any) -> str:
    """Return a value as part of a file's name; other values give other names."""
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
    if _PLAIN.fullmatch(text):
        return text
    stem = re.sub(r"\W+", "_", PurePath(text).stem)[:24].strip("_")
    return "-".join(filter(None, [stem, _digest(text)]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:6]
