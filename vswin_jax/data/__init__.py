"""Video data: sources, order, sampling, decoding, cropping. Never imports a model or JAX.

Batches come from `vswin_jax.data.pipeline`; it alone needs TensorFlow and is not imported here.
"""

from vswin_jax.data.clips import ClipSpec, TrainClip, test_views, train_clip, train_clips
from vswin_jax.data.decode import open_video
from vswin_jax.data.frames import FrameFolder
from vswin_jax.data.sources import Example, Source, open_source

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
