"""A model that is loaded and compiled once, for the predictions of any number of videos."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.example import Example
from vswin_jax.errors import InputError
from vswin_jax.inference.clips_ahead import Views, read_ahead
from vswin_jax.inference.opened_checkpoint import OpenedCheckpoint, Source, open_checkpoint
from vswin_jax.inference.stored_programs import stored_programs
from vswin_jax.inference.trained_model import TrainedModel
from vswin_jax.inference.video_paths import VideoPath, find_videos
from vswin_jax.inference.views import with_views
from vswin_jax.training.steps import make_eval_step

TOPK = 5


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


Results = Generator[Prediction | UnreadableVideo, None, None]
Videos = VideoPath | Sequence[VideoPath]


class Predictor:
    """A checkpoint's model, loaded and compiled once, which predicts the classes of videos.

        predictor = vswin_jax.Predictor("runs/mine")
        for prediction in predictor(["a.mp4", "b.mp4"]):
            print(prediction.label)

    Threads may share it. A call takes the time of decoding and of the model, nothing else.

    Attributes:
      model: the `TrainedModel`, with the config, the names of the classes and the parameters.
      spec: the sampling of the clips, and the test views whose probabilities are averaged.
      topk: classes for each video, unless a call asks for another number.
    """

    def __init__(
        self,
        checkpoint: Source | OpenedCheckpoint,
        *,
        views: tuple[int, int] | None = None,
        topk: int = TOPK,
        which: str = "latest",
        labels: Source | None = None,
        dtype: str | None = None,
    ) -> None:
        """Load and compile the model.

        Args:
          checkpoint: as for `load`.
          views: (clips along time, crops along the longer side: 1, 3 or 5) whose probabilities are
            averaged; by default as the run was evaluated.
          topk: classes for each video; fewer if the model has fewer.
          which: as for `load`, and so are the following.
          labels: a text file with one class name a line.
          dtype: another compute dtype.

        Raises:
          InputError: there is no such checkpoint, or `topk` or `views` are impossible.
        """
        self.topk = checked_topk(topk)
        is_opened = isinstance(checkpoint, OpenedCheckpoint)
        opened = checkpoint if is_opened else open_checkpoint(checkpoint, which, labels)
        self.model = TrainedModel(opened, dtype)
        self.spec = with_views(self.model.spec, views)
        self._blank_label = self.model.task.blank_labels(1, len(self.model.label_names))
        self._step = self._compile()

    def __call__(self, videos: Videos, topk: int | None = None) -> list[Prediction]:
        """Return the prediction of each video; see `predict`."""
        return self.predict(videos, topk)

    def predict(self, videos: Videos, topk: int | None = None) -> list[Prediction]:
        """Return the `topk` most probable classes of each video.

        `videos` is one path or several: of video files, of folders of frames, or of folders with
        either at any depth.

        Raises:
          InputError: a video is missing or unreadable.
        """
        return all_or_error(self.predict_each(videos, topk))

    def predict_each(self, videos: Videos, topk: int | None = None) -> Results:
        """Yield the prediction of each video as soon as it is made; bad videos do not end others.

        Paths without videos come first; all others come in the order of `videos`.
        """
        topk = self.topk if topk is None else checked_topk(topk)
        return predict_found(FoundVideos(videos), self.spec, lambda: self, topk)

    def predict_clips(
        self, clips_of_videos: Iterator[tuple[Example, Views | InputError]], topk: int
    ) -> Results:
        """Yield the prediction of each video from its test views, or from the error of reading."""
        for example, clips in clips_of_videos:
            if isinstance(clips, InputError):
                yield UnreadableVideo(example.name, str(clips))
            else:
                yield self._predict(example.name, clips, topk)

    def _predict(self, path: str, clips: Views, topk: int) -> Prediction:
        outputs = self._step(self.model.params, self._batch(clips))
        probabilities = jax.device_get(outputs["probabilities"][0])
        best = np.argsort(-probabilities, kind="stable")[:topk]
        return Prediction(
            video=path,
            labels=tuple(self.model.label_names[k] for k in best),
            probabilities=tuple(float(probabilities[k]) for k in best),
            # Not a view, which would keep all views of the video in memory.
            frames=clips[self.spec.middle_view].copy(),
        )

    def _batch(self, clips: Any) -> dict[str, Any]:
        return {"video": clips[None], "label": self._blank_label, "flip": np.zeros(1, bool)}

    def _compile(self) -> Any:
        spec, model = self.spec, self.model
        step = make_eval_step(model.model, model.config.eval.views_per_pass, model.task)
        shape = (spec.views, spec.num_frames, spec.size, spec.size, 3)
        batch = self._batch(np.broadcast_to(np.uint8(0), shape))
        with stored_programs():
            return step.lower(model.params, batch).compile()

    def __repr__(self) -> str:
        views = f"{self.spec.num_clips}x{self.spec.num_crops}"
        inner = repr(self.model).partition("(")[2]
        return f"{type(self).__name__}({inner[:-1]}, views={views!r})"


class FoundVideos:
    """The videos that paths name.

    Attributes:
      examples: the videos.
      missing: the paths without videos.
    """

    def __init__(self, videos: Videos) -> None:
        paths = [videos] if isinstance(videos, str | bytes | os.PathLike) else list(videos)
        self.missing: list[UnreadableVideo] = []
        self.examples: list[Example] = []
        for path in paths:
            self._find(path)

    def _find(self, path: VideoPath) -> None:
        try:
            for found in find_videos(path):
                self.examples.append(Example(found.video, 0, len(self.examples), found.path))
        except InputError as error:
            self.missing.append(UnreadableVideo(os.fsdecode(path), str(error)))


def predict_found(
    found: FoundVideos, spec: ClipSpec, get_predictor: Callable[[], Predictor], topk: int
) -> Results:
    """Yield the predictions; the first video is decoded while the predictor is loaded."""
    yield from found.missing
    if found.examples:
        with read_ahead(found.examples, spec) as clips_of_videos:
            yield from get_predictor().predict_clips(clips_of_videos, topk)


def all_or_error(results: Results) -> list[Prediction]:
    """Return all predictions; raise the `InputError` of the first bad video."""
    predictions = []
    with contextlib.closing(results):
        for result in results:
            if isinstance(result, UnreadableVideo):
                raise InputError(result.reason)
            predictions.append(result)
    return predictions


def checked_topk(topk: int) -> int:
    """Return `topk`.

    Raises:
      InputError: it is less than 1.
    """
    if topk < 1:
        raise InputError(f"Expected topk to be 1 or more but {topk} came.")
    return topk
