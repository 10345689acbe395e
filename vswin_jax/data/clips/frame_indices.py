"""The frames of a video that a `ClipSpec` selects for a training clip and for test views."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int64

from vswin_jax.data.clips import sampling
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.decoding.video import Video
from vswin_jax.errors import InputError

# Frames of a video at `ClipSpec.fps` whose indices are listed.
_MAX_RESAMPLED = 10**7


def train_indices(
    video: Video, spec: ClipSpec, rng: np.random.Generator
) -> Int64[np.ndarray, " T"]:
    """Sample the frame indices of a training clip.

    Raises:
      InputError: the video has no presentation times, which `spec.fps` needs.
    """

    def sample(total: int) -> np.ndarray:
        if spec.sampling == "uniform":
            return sampling.uniform_train(total, spec.num_frames, rng)
        return sampling.dense_train(total, spec.num_frames, spec.frame_interval, rng)

    return _indices(video, spec, sample)


def possible_train_frames(video: Video, spec: ClipSpec) -> Int64[np.ndarray, " frames"]:
    """Return the sorted indices of all frames that a training clip can contain.

    Raises:
      InputError: the video has no presentation times, which `spec.fps` needs.
    """

    def sample(total: int) -> np.ndarray:
        if spec.sampling == "uniform":
            return np.arange(total)[:, None]
        frames = sampling.dense_possible(total, spec.num_frames, spec.frame_interval)
        return frames[:, None]

    # Wrong time stamps may be years apart; all frames then count.
    times = video.times if spec.fps else None
    if times is not None and sampling.resampled_length(times, spec.fps) > _MAX_RESAMPLED:
        return np.arange(video.num_frames)
    return np.unique(_indices(video, spec, sample))


def eval_indices(video: Video, spec: ClipSpec) -> Int64[np.ndarray, "num_clips T"]:
    """Return the frame indices of the temporal test views.

    Raises:
      InputError: the video has no presentation times, which `spec.fps` needs.
    """

    def sample(total: int) -> np.ndarray:
        if spec.sampling == "uniform":
            return sampling.uniform_test(total, spec.num_frames)
        return sampling.dense_test(total, spec.num_frames, spec.frame_interval, spec.num_clips)

    return _indices(video, spec, sample)


def _indices(video: Video, spec: ClipSpec, sample: Callable[[int], np.ndarray]) -> np.ndarray:
    """Apply `sample` to the frame count (at `spec.fps`, if set); return the video's own indices."""
    if spec.fps:
        times = video.times
        if times is None:
            raise no_timestamps_error(video.name, spec)
        frames = sample(sampling.resampled_length(times, spec.fps))
        indices = sampling.source_indices(times, spec.fps, frames)
    else:
        indices = sample(video.num_frames)
    if spec.repeat_first_frame:
        return np.broadcast_to(indices[..., :1], indices.shape)
    return indices


def no_timestamps_error(name: str, spec: ClipSpec) -> InputError:
    """Return the error for the video `name`, which lacks the times that `spec.fps` needs."""
    return InputError(
        f"Expected {name!r} to have the times at which its frames are shown, since config.data.fps "
        f"is {spec.fps:g}, but images do not: give videos, or set config.data.fps to 0, which "
        f"takes the frames as they are."
    )
