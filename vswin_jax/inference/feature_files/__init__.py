"""Features of videos in files: pooled vectors or feature maps, written in shards and read again."""

from vswin_jax.inference.feature_files.extraction import ExtractedFeatures
from vswin_jax.inference.feature_files.stored_features import StoredFeatures, load_features
from vswin_jax.inference.feature_files.video_features import features
from vswin_jax.inference.feature_files.window_features import WindowOptions

__all__ = ["ExtractedFeatures", "StoredFeatures", "WindowOptions", "features", "load_features"]
