"""A server of a trained model: a page to drop videos into, and an interface for programs."""

from vswin_jax.inference.serving.serve_settings import ServeSettings
from vswin_jax.inference.serving.video_server import VideoServer, serve

__all__ = ["ServeSettings", "VideoServer", "serve"]
