"""Video data: sources, sampling, decoding and augmentation. Imports neither models nor JAX.

Batches come from `vswin_jax.data.pipeline.pipeline`, which needs TensorFlow and is not imported
here.
"""

from vswin_jax.data.clips import builtin_augmentations  # noqa: F401 - registers them
from vswin_jax.data.clips.clip_augmentations import register_augmentation
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.clips import TrainClip, test_views, train_clip, train_clips
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.data.decoding.frames import FrameFolder
from vswin_jax.data.example import Example, Source
from vswin_jax.data.sources.source_registry import SourceOptions, register_source
from vswin_jax.data.sources.sources import open_source

__all__ = [
    "ClipSpec",
    "Example",
    "FrameFolder",
    "Source",
    "SourceOptions",
    "TrainClip",
    "open_source",
    "open_video",
    "register_augmentation",
    "register_source",
    "test_views",
    "train_clip",
    "train_clips",
]
