"""Which frames of a video make a clip, exactly as the reference samples them.

`dense` is the rule of Kinetics: a window of `num_frames * interval` consecutive frames, every
`interval`-th of them taken; videos that are too short start again from their first frame (`loop`).
`uniform` is the rule of Something-Something v2 (`frame_uniform`): the whole video in `num_frames`
equal segments, one frame from each. Source: reference facts, section 5.2.
"""

import numpy as np


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


def _segments(total: int, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    # np.round rounds halves to even, as the reference does; neighbours share their border frame.
    borders = np.round((total - 1) / num_frames * np.arange(num_frames + 1)).astype(np.int64)
    return borders[:-1], borders[1:]
