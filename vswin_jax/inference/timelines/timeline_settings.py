"""The settings that the scores of a timeline depend on, kept beside them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vswin_jax.data.clips.window_plan import WindowPlan
from vswin_jax.data.pipeline.frame_cursor import LongVideo
from vswin_jax.errors import InputError
from vswin_jax.inference.params_digest import params_digest
from vswin_jax.inference.timelines.window_scores import WindowScorer
from vswin_jax.inference.written_settings import describe_changes

# The address of the same weights or of the same video may have changed.
_IGNORED = ("checkpoint", "video", "label_names")
_PHRASES = {"weights": "other weights", "bytes": "another video", "duration": "another video"}


def timeline_settings(source: LongVideo, plan: WindowPlan, scorer: WindowScorer) -> dict[str, Any]:
    """Return the content of the settings file."""
    spec, model = source.spec, scorer.model
    return {
        "video": source.name,
        "bytes": os.path.getsize(source.name) if os.path.isfile(source.name) else None,
        "duration": plan.duration,
        "windows": len(plan.indices),
        "stride": source.stride,
        "window": source.window,
        "frame_rate": source.frame_rate,
        "checkpoint": model.source,
        "step": model.step,
        "weights": params_digest(model.params),
        "model": model.config.model.name,
        "dtype": model.config.model.dtype,
        "frames": spec.num_frames,
        "frame_interval": spec.frame_interval,
        "sampling": spec.sampling,
        "fps": spec.fps,
        "size": spec.size,
        "short_side": spec.eval_short_side,
        "crops": spec.num_crops,
        "label_names": [*model.label_names],
    }


def check_same_settings(file: Path, settings: Mapping[str, Any]) -> None:
    """Compare the settings with those of an earlier start, if there was one.

    Raises:
      InputError: they differ, or the directory is not of a timeline.
    """
    directory = os.fspath(file.parent)
    try:
        old = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        others = [name for name in os.listdir(file.parent) if not name.startswith(".")]
        if others:
            raise InputError(
                f"Expected an empty directory or one of a timeline but {directory!r} has "
                f"{others[0]!r} and no {file.name}: give another one."
            ) from None
        return
    except ValueError:
        old = {}
    shown = describe_changes(
        old, json.loads(json.dumps(settings)), ignored=_IGNORED, phrases=_PHRASES
    )
    if shown:
        raise InputError(
            f"The timeline in {directory!r} is of other settings ({shown}): give another "
            f"directory, or overwrite it."
        )
