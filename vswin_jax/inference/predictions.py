"""Predictions for video files: the most probable classes under a checkpoint's model."""

import contextlib
import dataclasses
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import UInt8

from vswin_jax import factory
from vswin_jax.checkpoint import check_matches, load_for_inference, read_metadata
from vswin_jax.config.renames import load_saved_config
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.example import Example
from vswin_jax.errors import InputError
from vswin_jax.evaluation import report
from vswin_jax.inference.clips_ahead import Views, read_ahead
from vswin_jax.inference.video_paths import FoundVideo, VideoPath, find_videos
from vswin_jax.models import init_params
from vswin_jax.training.steps import make_eval_step
from vswin_jax.training.task import task_from_config


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


@dataclass(frozen=True)
class UnreadableVideo:
    """A video without a prediction, and the reason in one sentence."""

    video: str
    reason: str


def predict(
    videos: VideoPath | Sequence[VideoPath],
    checkpoint: str | os.PathLike[str],
    topk: int = 5,
    *,
    views: tuple[int, int] | None = None,
) -> list[Prediction]:
    """Return the `topk` most probable classes of each video under a checkpoint's model.

    Args:
      videos: one path or several: of video files, of folders of frames, or of folders with either
        at any depth.
      checkpoint: a run's directory (its best checkpoint), or one step's.
      topk: classes for each video; fewer if the model has fewer.
      views: (clips along time, crops along the longer side: 1, 3 or 5) whose probabilities are
        averaged; by default as the run was evaluated.

    Raises:
      InputError: no such checkpoint, a video that is missing or unreadable, impossible views.
    """
    predictions = []
    with contextlib.closing(predict_each(videos, checkpoint, topk, views=views)) as results:
        for result in results:
            if isinstance(result, UnreadableVideo):
                raise InputError(result.reason)
            predictions.append(result)
    return predictions


def predict_each(
    videos: VideoPath | Sequence[VideoPath],
    checkpoint: str | os.PathLike[str],
    topk: int = 5,
    *,
    views: tuple[int, int] | None = None,
) -> Generator[Prediction | UnreadableVideo, None, None]:
    """Yield the prediction of each video as soon as it is made; bad videos do not end the others.

    The arguments are those of `predict`. Paths without videos come first, before the model is
    loaded; all others come in the order of `videos`.

    Raises:
      InputError: at once, if there is no such checkpoint, or `topk` or `views` are impossible.
    """
    if topk < 1:
        raise InputError(f"Expected topk to be 1 or more but {topk} came.")
    spec = _clip_spec(checkpoint, views)
    paths = [videos] if isinstance(videos, str | os.PathLike) else list(videos)
    return _predict_each(paths, checkpoint, spec, topk)


def _predict_each(
    paths: Sequence[VideoPath], checkpoint: str | os.PathLike[str], spec: ClipSpec, topk: int
) -> Generator[Prediction | UnreadableVideo, None, None]:
    found: list[FoundVideo] = []
    for path in paths:
        try:
            found += find_videos(path)
        except InputError as error:
            yield UnreadableVideo(os.fsdecode(path), str(error))
    if not found:
        return
    examples = [Example(video.video, 0, index, video.path) for index, video in enumerate(found)]
    with read_ahead(examples, spec) as clips_of_videos:
        predictor = _Predictor(checkpoint, spec)
        for example, clips in clips_of_videos:
            if isinstance(clips, InputError):
                yield UnreadableVideo(example.name, str(clips))
            else:
                yield predictor.predict(example.name, clips, topk)


def _clip_spec(checkpoint: str | os.PathLike[str], views: tuple[int, int] | None) -> ClipSpec:
    config = load_saved_config(read_metadata(checkpoint)["config"])
    return _with_views(factory.clip_spec(config), views)


class _Predictor:
    """A checkpoint's model, compiled once for the views of all videos."""

    def __init__(self, checkpoint: str | os.PathLike[str], spec: ClipSpec) -> None:
        params, metadata = load_for_inference(checkpoint)
        self._label_names = tuple(metadata["label_names"])
        config = load_saved_config(metadata["config"])
        self._shown_view = report.shown_view(spec)
        model = factory.build_model(config, len(self._label_names))
        check_matches(params, jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
        task = task_from_config(config)
        self._step = make_eval_step(model, config.eval.views_per_pass, task)
        self._blank_label = task.blank_labels(1, len(self._label_names))
        self._params = jax.device_put(params)

    def predict(self, path: str, clips: Views, topk: int) -> Prediction:
        """Return the prediction for the video at `path`, whose test views are `clips`."""
        batch = {"video": clips[None], "label": self._blank_label, "flip": np.zeros(1, bool)}
        probabilities = jax.device_get(self._step(self._params, batch)["probabilities"][0])
        best = np.argsort(-probabilities, kind="stable")[:topk]
        return Prediction(
            video=path,
            labels=tuple(self._label_names[k] for k in best),
            probabilities=tuple(float(probabilities[k]) for k in best),
            # Not a view, which would keep all views of the video in memory.
            frames=clips[self._shown_view].copy(),
        )


def _with_views(spec: ClipSpec, views: tuple[int, int] | None) -> ClipSpec:
    if views is None:
        return spec
    clips, crops = views
    # Several crops lie along the longer side, so the shorter one has to fit exactly.
    short_side = spec.size if crops > 1 else spec.eval_short_side
    return dataclasses.replace(spec, num_clips=clips, num_crops=crops, eval_resize=short_side)
