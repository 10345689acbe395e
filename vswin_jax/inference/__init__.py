"""Predictions of a trained model."""

from vswin_jax.inference.predictions import Prediction, UnreadableVideo, predict, predict_each

__all__ = ["Prediction", "UnreadableVideo", "predict", "predict_each"]
