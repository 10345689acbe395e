"""A model that answers the requests of a server, one computation at a time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8

from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.example import Example
from vswin_jax.data.pipeline.clip_processes import ClipProcesses
from vswin_jax.data.pipeline.frame_cursor import LongVideo
from vswin_jax.errors import InputError
from vswin_jax.inference.explanations.explanation import (
    Explainer,
    ExplanationSettings,
)
from vswin_jax.inference.explanations.explanation_files import overlaid_clip
from vswin_jax.inference.predictor import Prediction, Predictor
from vswin_jax.inference.serving.uploaded_video import UploadedVideo
from vswin_jax.inference.stored_programs import stored_programs
from vswin_jax.inference.timelines.frame_stream import FrameStream
from vswin_jax.inference.timelines.segments import SegmentOptions
from vswin_jax.inference.timelines.timeline_files import Timeline
from vswin_jax.inference.timelines.video_timeline import build_timeline
from vswin_jax.inference.timelines.window_scores import read_windows
from vswin_jax.inference.views import with_views
from vswin_jax.reporting.contact_sheet import encode_sheet
from vswin_jax.reporting.overlay_pictures import draw_strip

Result = TypeVar("Result")


@dataclass(frozen=True)
class TimelineOptions:
    """The options of a timeline.

    Attributes:
      stride: seconds from the start of a window to that of the next one, or more.
      window: seconds of a window, for a model with uniform sampling.
      segments: the rules of segments.
    """

    stride: float
    window: float | None
    segments: SegmentOptions


class ServedModel:
    """A predictor, with the programs of explanations and timelines, compiled once.

    Threads may share it: they decode side by side, each in the process that it gives, and the model
    runs in a thread of its own, for one at a time in order.
    """

    def __init__(self, predictor: Predictor, max_windows: int) -> None:
        self.predictor = predictor
        self.model = predictor.model
        self._max_windows = max_windows
        self._clip_spec = with_views(self.model.spec, (1, 1))
        self._explainer = Explainer(self.model, ExplanationSettings())
        self._device = ThreadPoolExecutor(1, thread_name_prefix="model")
        spec = self._clip_spec
        blank = np.zeros((1, spec.num_frames, spec.size, spec.size, 3), np.uint8)
        with stored_programs():
            self._explainer("", blank)

    def predict(self, upload: UploadedVideo, decoder: ClipProcesses, topk: int) -> Prediction:
        """Return the `topk` most probable classes of a video.

        Raises:
          InputError: it cannot be read.
        """
        example = upload.example
        views = _read_views(example, self.predictor.spec, decoder)

        def compute() -> Prediction:
            (prediction,) = self.predictor.predict_clips(iter([(example, views)]), topk)
            return prediction

        return self._compute(decoder, compute)

    def explain(self, upload: UploadedVideo, decoder: ClipProcesses, label: str | None) -> bytes:
        """Return a PNG of the clip in the middle with its Grad-CAM map.

        Raises:
          InputError: the video cannot be read.
        """
        clip = _read_views(upload.example, self._clip_spec, decoder)
        explained = self._compute(decoder, lambda: self._explainer(upload.name, clip, label))
        return encode_sheet(draw_strip(overlaid_clip(explained)))

    def timeline(
        self, upload: UploadedVideo, decoder: ClipProcesses, options: TimelineOptions
    ) -> Timeline:
        """Return the probabilities of the classes over the time of a video.

        Raises:
          InputError: it cannot be read.
        """
        source = LongVideo(
            upload.file,
            upload.name,
            self._clip_spec,
            options.stride,
            options.window,
            most_windows=self._max_windows,
        )
        probabilities = self.model.probabilities
        with FrameStream(source, decoder) as stream:
            scores = [
                self._compute(decoder, lambda clip=clip: np.asarray(probabilities(clip))[0])
                for clip in read_windows(stream)
            ]
            if not scores:
                raise InputError(stream.failure)
            return build_timeline(stream, np.stack(scores), self.model, options.segments)

    def _compute(self, decoder: ClipProcesses, function: Callable[[], Result]) -> Result:
        def run() -> Result:
            if decoder.is_closed:
                raise RuntimeError("nobody waits for the result")
            return function()

        return self._device.submit(run).result()

    def close(self) -> None:
        """End the thread of the model, when its computation is done."""
        self._device.shutdown(cancel_futures=True)


def _read_views(
    example: Example, spec: ClipSpec, decoder: ClipProcesses
) -> UInt8[np.ndarray, "V T size size 3"]:
    shape = (spec.views, spec.num_frames, spec.size, spec.size, 3)
    out = decoder.memory.empty(int(np.prod(shape))).reshape(shape)
    return decoder.test_views(example, spec, out)
