"""Check of a whole video, by the code that decodes the clips of training."""

from collections.abc import Callable

import numpy as np

from vswin_jax.data.clips import transforms
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.frame_indices import eval_indices, possible_train_frames
from vswin_jax.data.decoding.assembly import FrameTransform
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.data.decoding.video import Video
from vswin_jax.data.example import Example
from vswin_jax.errors import InputError

# Returns the sorted indices of the frames of a video to decode.
FrameChoice = Callable[[Video], np.ndarray]
# Frames are of one size if they are so after the first step of training, which resizes them.
_SHORT_SIDE = ClipSpec.resize
# `heartbeat` is called once in this many frames, which is fewer than a clip's range of the video.
_HEARTBEAT_FRAMES = 32


def every_frame(video: Video) -> np.ndarray:
    """Choose all frames."""
    return np.arange(video.num_frames)


def train_frames(spec: ClipSpec, video: Video) -> np.ndarray:
    """Choose the frames that a training clip can contain."""
    return possible_train_frames(video, spec)


def eval_frames(spec: ClipSpec, video: Video) -> np.ndarray:
    """Choose the frames of the test views."""
    return np.unique(eval_indices(video, spec))


def unreadable_reason(
    example: Example,
    choose: FrameChoice = every_frame,
    heartbeat: Callable[[], None] = lambda: None,
) -> str:
    """Decode the chosen frames; return the text of the first error, or "" if there is none.

    `heartbeat` is called every 32 frames.
    """
    try:
        with open_video(example.video, example.name) as video:
            # One pass finds all that any clip would meet: a clip gets the frames that decoding from
            # a nearby key frame does not give from a pass over the whole file.
            video.decode(choose(video), _size_alone(heartbeat))
    except InputError as error:
        return str(error)
    return ""


def open_failure(example: Example) -> str:
    """Open a video without decoding it; return the text of the error, or "" if there is none."""
    try:
        with open_video(example.video, example.name):
            return ""
    except InputError as error:
        return str(error)


def _size_alone(heartbeat: Callable[[], None]) -> FrameTransform:
    """Return a function that replaces a frame by an array of its size [H, W, 0], without pixels."""
    count = 0

    def transform(frame: np.ndarray, _: np.ndarray | None) -> np.ndarray:
        nonlocal count
        count += 1
        if count % _HEARTBEAT_FRAMES == 0:
            heartbeat()
        size = transforms.short_side_size(*frame.shape[:2], _SHORT_SIDE)
        return np.empty((*size, 0), np.uint8)

    return transform
