"""Layouts of Swin checkpoints: detection, architecture and parameter names."""
