"""Which frames of a video make a clip, exactly as the reference samples them.

`dense` is the rule of Kinetics: a window of `num_frames * interval` consecutive frames, every
`interval`-th of them taken; videos that are too short start again from their first frame (`loop`).
`uniform` is the rule of Something-Something v2 (`frame_uniform`): the whole video in `num_frames`
equal segments, one frame from each. Source: reference facts, section 5.2.

At a target rate the same rules choose among the frames that the video would have at that rate
(`resampled_length`), and `on_screen` finds the video's own frames for them.
"""

import math

import numpy as np

# Seconds by which a frame may be late: Matroska and FLV keep whole milliseconds.
_LATE = 1e-3


def dense_train(total: int, num_frames: int, interval: int, rng: np.random.Generator) -> np.ndarray:
    """Frame indices int64 [num_frames] of one clip at a random place of `total` frames."""
    starts = total - num_frames * interval + 1
    start = int(rng.integers(starts)) if starts > 0 else 0
    return (start + np.arange(num_frames) * interval) % total


def dense_test(total: int, num_frames: int, interval: int, clips: int) -> np.ndarray:
    """Frame indices int64 [clips, num_frames], the clips evenly spread; one clip is centred."""
    span = num_frames * interval
    spacing = (total - span + 1) / clips
    starts = np.arange(clips) * spacing + spacing / 2 if total >= span else np.zeros(clips)
    return (starts.astype(np.int64)[:, None] + np.arange(num_frames) * interval) % total


def uniform_train(total: int, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Frame indices int64 [num_frames]: one at random from every segment, both ends included."""
    starts, ends = _segments(total, num_frames)
    return rng.integers(starts, ends, endpoint=True)


def uniform_test(total: int, num_frames: int) -> np.ndarray:
    """Frame indices int64 [1, num_frames]: the middle of every segment."""
    starts, ends = _segments(total, num_frames)
    return ((starts + ends) // 2)[None]


def resampled_length(times: np.ndarray, fps: float) -> int:
    """How many frames a video has at `fps` frames a second.

    `times` float64 [N] are the seconds at which its own frames come. The last one stays for as long
    as the others do, by their median.
    """
    stays = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return max(1, math.ceil((float(times[-1]) + stays - _LATE) * fps))


def on_screen(times: np.ndarray, fps: float, frames: np.ndarray) -> np.ndarray:
    """The video's own frames, int64 like `frames`, that the `frames` at `fps` frames a second show.

    Frame k at that rate shows what is on screen at the time k / fps; `times` as above.
    """
    return np.searchsorted(times, frames / fps + _LATE, side="right") - 1


def _segments(total: int, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    # np.round rounds halves to even, as the reference does; neighbours share their border frame.
    borders = np.round((total - 1) / num_frames * np.arange(num_frames + 1)).astype(np.int64)
    return borders[:-1], borders[1:]
