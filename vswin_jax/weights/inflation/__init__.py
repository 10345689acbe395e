"""Inflation of 2D weights to 3D, and resizing of windows and patches."""
