"""Predictions of a trained model."""

from vswin_jax.inference.predictions import Prediction, predict

__all__ = ["Prediction", "predict"]
