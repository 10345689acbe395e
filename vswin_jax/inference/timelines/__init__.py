"""Timelines of long videos: probabilities over time, segments, a picture, and live sources."""

from vswin_jax.inference.timelines.live_scores import LiveScores, live_timeline
from vswin_jax.inference.timelines.segments import Segment
from vswin_jax.inference.timelines.timeline_files import Timeline
from vswin_jax.inference.timelines.video_timeline import timeline
from vswin_jax.inference.timelines.window_scores import WindowScorer

__all__ = ["LiveScores", "Segment", "Timeline", "WindowScorer", "live_timeline", "timeline"]
