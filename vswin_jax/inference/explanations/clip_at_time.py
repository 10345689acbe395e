"""Reads the clip of a video around a time, with the frames and the crop of a test view."""

import math

import numpy as np
from jaxtyping import Int64, UInt8

from vswin_jax.data.clips import transforms
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.frame_indices import no_timestamps_error
from vswin_jax.data.clips.sampling import resampled_length, source_indices
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.data.decoding.video import Video
from vswin_jax.data.example import Example
from vswin_jax.errors import InputError


def check_time(spec: ClipSpec, time: float | None) -> None:
    """Check a time in seconds; None stands for the middle test view.

    Raises:
      InputError: it is negative, or clips of `spec` have no time of their own.
    """
    if time is None:
        return
    if not (math.isfinite(time) and time >= 0):
        raise InputError(f"Expected the time as seconds from 0 up but {time} came: change it.")
    if spec.sampling == "uniform":
        raise InputError(
            "Expected no time, since the clips of this model span the whole video (uniform "
            f"sampling), but {time:g} s came: leave it away."
        )


def read_clip_at(
    example: Example, spec: ClipSpec, time: float
) -> UInt8[np.ndarray, "1 T size size 3"]:
    """Read the clip whose middle is at `time` seconds, or as near to it as the video allows.

    Raises:
      InputError: the video cannot be read, ends before, or has no times.
    """
    with open_video(example.video, example.name) as video:
        frames = video.decode(
            _indices_at(video, spec, time),
            lambda frame, _: transforms.resize_short_side(frame, spec.eval_short_side),
        )
    return transforms.eval_crops(frames, 1, spec.size)[0][None]


def _indices_at(video: Video, spec: ClipSpec, time: float) -> Int64[np.ndarray, " T"]:
    times = video.times
    if times is None:
        if spec.fps:
            raise no_timestamps_error(video.name, spec)
        raise InputError(
            f"Expected {video.name!r} to have the times of its frames but images have none: leave "
            f"the time away, which takes the middle."
        )
    if time > times[-1]:
        raise InputError(
            f"Expected a time within {video.name!r}, from 0 to {times[-1]:.2f} s, but {time:g} s "
            f"came: change it."
        )
    if not spec.fps:
        return _clip_around(int(np.searchsorted(times, time, "right")) - 1, len(times), spec)
    total = resampled_length(times, spec.fps)
    return source_indices(times, spec.fps, _clip_around(round(time * spec.fps), total, spec))


def _clip_around(centre: int, total: int, spec: ClipSpec) -> Int64[np.ndarray, " T"]:
    """Return the frames of the clip around `centre`; a short video starts again, as in training."""
    span = spec.num_frames * spec.frame_interval
    start = max(0, min(centre - span // 2, total - span))
    return (start + np.arange(spec.num_frames) * spec.frame_interval) % total
