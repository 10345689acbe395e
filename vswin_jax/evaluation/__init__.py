"""Exact multi-view evaluation: the loop over the videos, the results and the report."""
