"""Clips: frame sampling, crops, augmentations and test views."""
