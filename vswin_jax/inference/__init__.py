"""Predictions of a trained model, and the model itself."""

from vswin_jax.inference.answers.answered_videos import AnsweredVideos, predict_to_file
from vswin_jax.inference.answers.fusion import CombinedAnswers, combine
from vswin_jax.inference.explanations import Explanation, explain
from vswin_jax.inference.exports import ExportedModel, export
from vswin_jax.inference.feature_files import (
    ExtractedFeatures,
    StoredFeatures,
    WindowOptions,
    features,
    load_features,
)
from vswin_jax.inference.kept_predictor import forget_predictor
from vswin_jax.inference.predictions import predict, predict_each
from vswin_jax.inference.predictor import Prediction, Predictor, UnreadableVideo
from vswin_jax.inference.serving import ServeSettings, VideoServer, serve
from vswin_jax.inference.timelines import (
    LiveScores,
    Segment,
    Timeline,
    WindowScorer,
    live_timeline,
    timeline,
)
from vswin_jax.inference.trained_model import TrainedModel, load

__all__ = [
    "AnsweredVideos",
    "CombinedAnswers",
    "Explanation",
    "ExportedModel",
    "ExtractedFeatures",
    "LiveScores",
    "Prediction",
    "Predictor",
    "Segment",
    "ServeSettings",
    "StoredFeatures",
    "Timeline",
    "TrainedModel",
    "UnreadableVideo",
    "VideoServer",
    "WindowOptions",
    "WindowScorer",
    "combine",
    "explain",
    "export",
    "features",
    "forget_predictor",
    "live_timeline",
    "load",
    "load_features",
    "predict",
    "predict_each",
    "predict_to_file",
    "serve",
    "timeline",
]
