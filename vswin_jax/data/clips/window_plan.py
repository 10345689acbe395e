"""The windows of a long video: the frames and the time of each."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.sampling import resampled_length, source_indices, uniform_test
from vswin_jax.errors import InputError


@dataclass(frozen=True)
class WindowPlan:
    """The W windows of a video, in order.

    Attributes:
      indices: the video's frames that make up each window.
      starts: the time at which each window begins, in seconds.
      ends: the time at which each window ends.
      duration: of the video, in seconds.
    """

    indices: Int64[np.ndarray, "W T"]
    starts: Float64[np.ndarray, " W"]
    ends: Float64[np.ndarray, " W"]
    duration: float

    @property
    def centres(self) -> Float64[np.ndarray, " W"]:
        """The middle of each window, in seconds."""
        return (self.starts + self.ends) / 2


def check_windows(spec: ClipSpec, stride: float, window: float | None) -> None:
    """Check the stride and the length of windows, in seconds.

    Raises:
      InputError: they are not positive, or the length does not fit the sampling of the model.
    """
    for name, seconds in (("stride", stride), ("window", window)):
        if seconds is not None and not 0 < seconds < math.inf:
            raise InputError(
                f"Expected the {name} as seconds above 0 but {seconds} came: change it.", [name]
            )
    if spec.sampling == "uniform" and window is None:
        raise InputError(
            "Expected the length of a window in seconds, because clips of this model span a whole "
            "video of any length (uniform sampling), but none came: give that of its training "
            "videos, such as --window 4.",
            ["window"],
        )
    if spec.sampling != "uniform" and window is not None:
        raise InputError(
            f"Expected no length of a window, because clips of this model have {spec.num_frames} "
            f"frames at a distance of {spec.frame_interval}, but {window:g} seconds came: leave it "
            f"away.",
            ["window"],
        )


def plan_windows(
    times: Float64[np.ndarray, " N"],
    spec: ClipSpec,
    stride: float,
    window: float | None = None,
    most: int | None = None,
) -> WindowPlan:
    """Place windows at each multiple of `stride` seconds, and one at the end of the video.

    A window has the frames of a test view: with dense sampling `num_frames` at the distance
    `frame_interval`, and with uniform sampling as many of the `window` seconds. A shorter video is
    one window. `times` are those of the video's frames, in seconds from the first one. With `most`,
    2 or more, the stride of a long video is larger, so that it has at most so many windows.
    """
    duration = float(times[-1]) + _last_duration(times)
    if most is not None:
        stride = max(stride, duration / (most - 1))
    total = resampled_length(times, spec.fps) if spec.fps else len(times)
    # The length of a window in frames, of those at `spec.fps` if that is set.
    span = spec.num_frames * spec.frame_interval
    if window is not None:
        span = max(1, min(total, round(window * total / duration)))
    multiples = stride * np.arange(math.ceil(duration / stride))
    starts = _frames_at(times, multiples, spec.fps)
    last = max(0, total - span)
    starts = np.unique([*starts[starts < last], last])
    frames = (starts[:, None] + _frames_of_window(spec, span)) % total
    indices = source_indices(times, spec.fps, frames) if spec.fps else frames
    if spec.repeat_first_frame:
        indices = np.broadcast_to(indices[:, :1], indices.shape)
    borders = np.arange(total) / spec.fps if spec.fps else times
    borders = np.append(np.minimum(borders, duration), duration)
    return WindowPlan(indices, borders[starts], borders[np.minimum(starts + span, total)], duration)


def _last_duration(times: np.ndarray) -> float:
    # As in `resampled_length`; a video of one frame lasts a moment.
    return float(np.median(np.diff(times))) if len(times) > 1 else 1e-3


def _frames_at(times: np.ndarray, seconds: np.ndarray, fps: float) -> np.ndarray:
    """Return the frames, at `fps` if that is set, that are shown at the times `seconds`."""
    if fps:
        return np.round(seconds * fps).astype(np.int64)
    return source_indices(times, 1.0, seconds)


def _frames_of_window(spec: ClipSpec, span: int) -> np.ndarray:
    """Return the frames of a window of `span` frames, counted from its first, int64 [T]."""
    if spec.sampling == "uniform":
        return uniform_test(span, spec.num_frames)[0]
    return np.arange(spec.num_frames) * spec.frame_interval
