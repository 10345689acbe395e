"""Exports of a trained model for programs without this package."""

from vswin_jax.inference.exports.export_model import FORMATS, ExportedModel, export

__all__ = ["FORMATS", "ExportedModel", "export"]
