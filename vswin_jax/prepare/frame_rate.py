"""Frame rates of videos, and the change of a video's frame rate by repeating or dropping frames."""

from collections.abc import Iterator

import numpy as np

from vswin_jax.data.decoding.video import Video

DEFAULT_RATE = 30.0  # frames a second, of images and of videos of one frame
_TOLERANCE = 1e-6  # seconds; far below a frame's duration, far above rounding errors


def mean_frame_rate(times: np.ndarray) -> float:
    """Return the frames a second of frames that are shown at `times`, seconds, float64 [N]."""
    return float((len(times) - 1) / times[-1]) if len(times) > 1 else DEFAULT_RATE


def resample_frames(video: Video, fps: float) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """Return the times, seconds, float64 [N], and frames, uint8 RGB [H, W, 3], at `fps`.

    With 0 they are the video's own. Otherwise each frame is the one on display at its time: frames
    of a faster video are left out, frames of a slower one are repeated. Images without times are
    all kept, at `fps`.
    """
    times = video.times
    if times is None:
        return np.arange(video.num_frames) / (fps or DEFAULT_RATE), video.frames()
    if not fps:
        return times, video.frames()
    counts = repeat_counts(times, fps)
    frames = (
        frame for frame, count in zip(video.frames(), counts, strict=True) for _ in range(count)
    )
    return np.arange(sum(counts)) / fps, frames


def repeat_counts(times: np.ndarray, fps: float) -> list[int]:
    """Count, for each frame, the points 0, 1/fps, 2/fps, ... in time at which it is on display.

    `times` are the frames' own; the last frame is on display for the mean duration.
    """
    last_duration = 1 / mean_frame_rate(times)
    count = max(1, round((times[-1] + last_duration) * fps))
    # The tolerance keeps a time that was rounded down from selecting the frame before.
    shown = np.searchsorted(times, np.arange(count) / fps + _TOLERANCE, side="right") - 1
    return np.bincount(shown, minlength=len(times)).tolist()
