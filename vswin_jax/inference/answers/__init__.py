"""Answers of a model for many videos: files that are written as they come, and their fusion."""
