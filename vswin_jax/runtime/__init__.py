"""Processes, signals, files and hardware: services that any part of a run uses."""
