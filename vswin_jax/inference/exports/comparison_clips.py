"""The clips on which an export is compared with its model: of videos, or drawn on the spot."""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.transforms import resize
from vswin_jax.data.moving_shapes.moving_scene import MOTIONS, Scene, make_scene, render
from vswin_jax.errors import InputError
from vswin_jax.inference.clips_ahead import read_ahead
from vswin_jax.inference.predictor import FoundVideos
from vswin_jax.inference.video_paths import VideoPath
from vswin_jax.inference.views import with_views

_NUM_DRAWN = 4
# Smaller frames have no room for the shapes.
_MIN_SIDE = 32

Clips = UInt8[np.ndarray, "B T size size 3"]


def comparison_clips(videos: Sequence[VideoPath], spec: ClipSpec) -> tuple[Clips, str]:
    """Return clips of the model's size, and their origin in words.

    They are the clips in the middle of `videos`; without videos they are moving shapes.

    Raises:
      InputError: a video is missing or cannot be read.
    """
    if not videos:
        return _draw_clips(spec), "moving shapes"
    clips = _read_clips(videos, with_views(spec, (1, 1)))
    return clips, f"the middle of {len(clips)} video{'s' * (len(clips) > 1)}"


def _read_clips(videos: Sequence[VideoPath], spec: ClipSpec) -> Clips:
    found = FoundVideos([os.path.expanduser(os.fspath(video)) for video in videos])
    for missing in found.missing:
        raise InputError(missing.reason)
    with read_ahead(found.examples, spec) as results:
        return np.concatenate([_or_error(views) for _, views in results])


def _or_error(views: Clips | InputError) -> Clips:
    if isinstance(views, InputError):
        raise views
    return views


def _draw_clips(spec: ClipSpec) -> Clips:
    """Draw an object that moves in another way in each clip."""
    rng = np.random.default_rng(0)
    # Square frames with an even side, which are then resized to the clip's.
    side = max(_MIN_SIDE, spec.size + spec.size % 2)
    motions = list(MOTIONS.values())[:: len(MOTIONS) // _NUM_DRAWN]
    return np.stack([_draw_clip(make_scene(rng, side), motion, spec) for motion in motions])


def _draw_clip(scene: Scene, motion: tuple[int, int, int, int], spec: ClipSpec) -> np.ndarray:
    frames = render(scene, motion, spec.num_frames)
    return np.stack([resize(frame, spec.size, spec.size) for frame in frames])
