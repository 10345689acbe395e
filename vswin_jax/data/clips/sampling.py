"""Frame sampling, exactly as the reference does it.

`dense` is the rule of Kinetics: every `interval`-th of `num_frames * interval` consecutive frames;
videos that are too short start again from their first frame (`loop`). `uniform` is the rule of
Something-Something v2 (`frame_uniform`): the whole video in `num_frames` equal segments, one frame
of each. `loop` and `frame_uniform` are options of `SampleFrames` in the reference's
`mmaction/datasets/pipelines/loading.py`.

With a target frame rate, the same rules sample from the frames that the video would have at that
rate (`resampled_length`), and `source_indices` maps these to the video's own frames.
"""

import math

import numpy as np
from jaxtyping import Float64, Int64

# Tolerance of presentation times in seconds: Matroska and FLV round them to milliseconds.
_TIME_TOLERANCE = 1e-3


def dense_train(
    total: int, num_frames: int, interval: int, rng: np.random.Generator
) -> Int64[np.ndarray, " num_frames"]:
    """Return the frame indices of a clip at a random position in `total` frames."""
    starts = total - num_frames * interval + 1
    start = int(rng.integers(starts)) if starts > 0 else 0
    return (start + np.arange(num_frames) * interval) % total


def dense_possible(total: int, num_frames: int, interval: int) -> Int64[np.ndarray, " frames"]:
    """Return the sorted indices of all frames that a clip of `dense_train` can contain."""
    starts = total - num_frames * interval + 1
    if starts >= interval:
        # The clips that begin at the first `interval` frames leave no gap.
        return np.arange(starts + (num_frames - 1) * interval)
    clips = np.arange(max(1, starts))[:, None] + np.arange(num_frames) * interval
    return np.unique(clips % total)


def dense_test(
    total: int, num_frames: int, interval: int, num_clips: int
) -> Int64[np.ndarray, "num_clips num_frames"]:
    """Return the frame indices of evenly spread clips; a single clip is centred."""
    span = num_frames * interval
    spacing = (total - span + 1) / num_clips
    starts = np.arange(num_clips) * spacing + spacing / 2 if total >= span else np.zeros(num_clips)
    return (starts.astype(np.int64)[:, None] + np.arange(num_frames) * interval) % total


def uniform_train(
    total: int, num_frames: int, rng: np.random.Generator
) -> Int64[np.ndarray, " num_frames"]:
    """Return a random frame index of each segment, both ends included."""
    starts, ends = _segments(total, num_frames)
    return rng.integers(starts, ends, endpoint=True)


def uniform_test(total: int, num_frames: int) -> Int64[np.ndarray, "1 num_frames"]:
    """Return the index of the middle frame of each segment."""
    starts, ends = _segments(total, num_frames)
    return ((starts + ends) // 2)[None]


def resampled_length(times: Float64[np.ndarray, " N"], fps: float) -> int:
    """Return the number of frames that a video has at `fps` frames a second.

    `times` are those of its own frames in seconds; the last frame lasts the median of the others.
    """
    last_duration = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return max(1, math.ceil((float(times[-1]) + last_duration - _TIME_TOLERANCE) * fps))


def source_indices(
    times: Float64[np.ndarray, " N"], fps: float, frames: Int64[np.ndarray, "*shape"]
) -> Int64[np.ndarray, "*shape"]:
    """Map `frames` at `fps` frames a second to indices of the video's own frames.

    Frame k at that rate is the frame that is displayed at the time k / fps. `times` are the
    presentation times of the video's own frames in seconds.
    """
    return np.searchsorted(times, frames / fps + _TIME_TOLERANCE, side="right") - 1


def _segments(total: int, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    # np.round rounds halves to even, as the reference does; neighbours share their border frame.
    borders = np.round((total - 1) / num_frames * np.arange(num_frames + 1)).astype(np.int64)
    return borders[:-1], borders[1:]
