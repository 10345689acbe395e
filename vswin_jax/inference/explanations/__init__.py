"""Explanations of predictions: Grad-CAM and attention maps, drawn over the frames."""

from vswin_jax.inference.explanations.explained_videos import explain, explain_each
from vswin_jax.inference.explanations.explanation import Explanation, ExplanationSettings

__all__ = ["Explanation", "ExplanationSettings", "explain", "explain_each"]
