"""Layouts of Swin checkpoints: detection, descriptions and parameter names."""
