"""Checks that a run which resumes continues the run that its checkpoint is from."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vswin_jax import checkpoint
from vswin_jax.config.changes import Change, setting_changes
from vswin_jax.data.example import Source
from vswin_jax.data.sources.labels import check_same_names
from vswin_jax.errors import InputError
from vswin_jax.training.task import task_from_config

log = logging.getLogger("vswin_jax")

# Key of the data in a checkpoint's metadata.
DATA = "data"
_SPLITS = {"train": "training", "eval": "held-out"}
_MAX_SHOWN = 6


def describe_data(train: Source, held_out: Source) -> dict[str, Any]:
    """Describe the videos of both splits for JSON: their number, and a digest."""
    return {
        split: {"videos": len(source), "identity": source.identity}
        for split, source in (("train", train), ("eval", held_out))
    }


def check_same_classes(
    config: ConfigDict, workdir: str | os.PathLike[str], label_names: Sequence[str]
) -> None:
    """Compare the task and the classes of a run with those of the checkpoint in `workdir`, if any.

    Raises:
      InputError: they differ.
    """
    path, saved = _newest_metadata(workdir)
    check_same_task(config, saved, path)
    # A program that calls `train` itself may have passed no metadata.
    if saved.get("label_names"):
        source = config.data.train or config.data.kind
        check_same_names(saved["label_names"], label_names, source)


def check_same_task(config: ConfigDict, saved: Mapping[str, Any], path: object) -> None:
    """Compare the task of a run with the metadata `saved` of the checkpoint at `path`.

    Raises:
      InputError: one is for videos with one class, the other for videos with sets of classes.
    """
    if "config" in saved and task_from_config(saved["config"]) is not task_from_config(config):
        raise InputError(
            f"Expected config.data.multi_label to be {not config.data.multi_label}, as the "
            f"checkpoint '{path}' was trained with, but it is {config.data.multi_label}: set it, "
            f"or start in an empty workdir."
        )


def check_changes(
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    data: Mapping[str, Any],
    *,
    allow_changes: bool,
) -> None:
    """Compare a run with the checkpoint in `workdir`, if there is one, and log every difference.

    `data` is that of `describe_data`. Checkpoints of older versions, and of programs that call
    `train` themselves, may lack the config or the data, which are then not compared.

    Raises:
      InputError: a difference breaks the schedule, the order of the videos or the comparison of
        scores, unless `allow_changes`.
    """
    path, saved = _newest_metadata(workdir)
    changes = _data_changes(saved.get(DATA, {}), data)
    changes += setting_changes(saved["config"], config) if "config" in saved else []
    breaking = [change for change in changes if change.has_effect]
    if breaking and not allow_changes:
        raise _refusal(breaking, path)
    for change in changes:
        level = logging.WARNING if change.has_effect else logging.INFO
        log.log(level, "resuming with a change: %s", change.description)


def _newest_metadata(workdir: str | os.PathLike[str]) -> tuple[os.PathLike[str] | None, Any]:
    """Return the path and the metadata of the checkpoint to resume from; empty without one."""
    # Damaged checkpoints are left to `train`, which quarantines them or ends if there is no other.
    path = checkpoint.newest_readable(Path(workdir) / "checkpoints")
    return path, {} if path is None else checkpoint.read_metadata(path)


def _data_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    return [
        Change(_describe_videos(_SPLITS[split], before[split], description), has_effect=True)
        for split, description in now.items()
        if before.get(split, description) != description
    ]


def _describe_videos(split: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if before["videos"] != now["videos"]:
        return f"there are {now['videos']} {split} videos and were {before['videos']}"
    return f"the {now['videos']} {split} videos have other names or labels, or another order"


def _refusal(changes: Sequence[Change], path: object) -> InputError:
    shown = ", ".join(change.description for change in changes[:_MAX_SHOWN])
    rest = len(changes) - _MAX_SHOWN
    more = f" (and {rest} more)" if rest > 0 else ""
    return InputError(
        f"Expected to resume '{path}' as it was trained but {shown}{more}, so the steps to come "
        f"would not continue its schedule, its order of videos or its scores: undo the change, "
        f"start in an empty workdir, or add --allow_changes to resume all the same."
    )
