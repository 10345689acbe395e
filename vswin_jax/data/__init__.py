"""Video data: sources, order, sampling, decoding, cropping. Never imports a model or JAX.

Batches come from `vswin_jax.data.pipeline.pipeline`, which needs TensorFlow and is not imported
here.
"""

from vswin_jax.data.clips.clips import ClipSpec, TrainClip, test_views, train_clip, train_clips
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
