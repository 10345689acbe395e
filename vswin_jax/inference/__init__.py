"""Predictions of a trained model, and the model itself."""

from vswin_jax.inference.kept_predictor import forget_predictor
from vswin_jax.inference.predictions import predict, predict_each
from vswin_jax.inference.predictor import Prediction, Predictor, UnreadableVideo
from vswin_jax.inference.trained_model import TrainedModel, load

__all__ = [
    "Prediction",
    "Predictor",
    "TrainedModel",
    "UnreadableVideo",
    "forget_predictor",
    "load",
    "predict",
    "predict_each",
]
