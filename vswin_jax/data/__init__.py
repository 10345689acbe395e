"""Video data: sources, sampling, decoding and augmentation. Imports neither models nor JAX.

Batches come from `vswin_jax.data.pipeline.pipeline`, which needs TensorFlow and is not imported
here.
"""

from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.clips import TrainClip, test_views, train_clip, train_clips
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.data.decoding.frames import FrameFolder
from vswin_jax.data.example import Example, Source
from vswin_jax.data.sources.sources import open_source

__all__ = [
    "ClipSpec",
    "Example",
    "FrameFolder",
    "Source",
    "TrainClip",
    "open_source",
    "open_video",
    "test_views",
    "train_clip",
    "train_clips",
]
