"""Predictions for video files: the most probable classes under a checkpoint's model."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import UInt8

from vswin_jax import factory
from vswin_jax.checkpoint import check_matches, load_for_inference
from vswin_jax.config.renames import load_saved_config
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.clips import test_views
from vswin_jax.data.example import Example
from vswin_jax.errors import InputError
from vswin_jax.evaluation import report
from vswin_jax.models import init_params
from vswin_jax.training.steps import make_eval_step
from vswin_jax.training.task import task_from_config

Video = str | os.PathLike[str]


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of a video, and the clip to show beside them.

    Under a multi-label model the probabilities of the classes are independent of each other.
    """

    video: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    frames: UInt8[np.ndarray, "T H W 3"] = dataclasses.field(repr=False, compare=False)

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.labels[0]


def predict(
    videos: Video | Sequence[Video],
    checkpoint: str | os.PathLike[str],
    topk: int = 5,
    *,
    views: tuple[int, int] | None = None,
) -> list[Prediction]:
    """Return the `topk` most probable classes of each video file under a checkpoint's model.

    Args:
      videos: one path or several.
      checkpoint: a run's directory (its best checkpoint), or one step's.
      topk: classes for each video; fewer if the model has fewer.
      views: (clips along time, crops along the longer side: 1, 3 or 5) whose probabilities are
        averaged; by default as the run was evaluated.

    Raises:
      InputError: no such checkpoint, a video that is missing or unreadable, impossible views.
    """
    if topk < 1:
        raise InputError(f"Expected topk to be 1 or more but {topk} came.")
    paths = [videos] if isinstance(videos, str | os.PathLike) else list(videos)
    predictor = _Predictor(checkpoint, views)
    return [predictor.predict(os.fspath(path), index, topk) for index, path in enumerate(paths)]


class _Predictor:
    """A checkpoint's model with its test views, compiled once for all videos."""

    def __init__(self, checkpoint: str | os.PathLike[str], views: tuple[int, int] | None) -> None:
        params, metadata = load_for_inference(checkpoint)
        self._label_names = tuple(metadata["label_names"])
        config = load_saved_config(metadata["config"])
        self._spec = _with_views(factory.clip_spec(config), views)
        model = factory.build_model(config, len(self._label_names))
        check_matches(params, jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
        task = task_from_config(config)
        self._step = make_eval_step(model, config.eval.views_per_pass, task)
        self._blank_label = task.blank_labels(1, len(self._label_names))
        self._params = jax.device_put(params)

    def predict(self, path: str, index: int, topk: int) -> Prediction:
        """Return the prediction for the video at `path`, the one with this `index` in the call."""
        clips = test_views(Example(path, 0, index, path), self._spec)
        batch = {"video": clips[None], "label": self._blank_label, "flip": np.zeros(1, bool)}
        probabilities = jax.device_get(self._step(self._params, batch)["probabilities"][0])
        best = np.argsort(-probabilities, kind="stable")[:topk]
        return Prediction(
            video=path,
            labels=tuple(self._label_names[k] for k in best),
            probabilities=tuple(float(probabilities[k]) for k in best),
            frames=clips[report.shown_view(self._spec)],
        )


def _with_views(spec: ClipSpec, views: tuple[int, int] | None) -> ClipSpec:
    if views is None:
        return spec
    clips, crops = views
    # Several crops lie along the longer side, so the shorter one has to fit exactly.
    short_side = spec.size if crops > 1 else spec.eval_short_side
    return dataclasses.replace(spec, num_clips=clips, num_crops=crops, eval_resize=short_side)
