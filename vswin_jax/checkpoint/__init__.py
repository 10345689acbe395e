"""Checkpoints: Orbax's manager behind a thin door, and the reading of one for inference.

A step's directory holds the whole state, as JSON what inference needs to know (config, label
names), and a manifest of its files. It gets its name only once it is complete, so a kill leaves the
one before usable; and by its manifest a step that was damaged afterwards is recognised.
"""

from vswin_jax.checkpoint.checkpoints import Checkpoints
from vswin_jax.checkpoint.matching import check_matches
from vswin_jax.checkpoint.quarantine import latest_intact
from vswin_jax.checkpoint.reading import load_for_inference, read_metadata
from vswin_jax.checkpoint.step_directories import newest_readable, steps_in

__all__ = [
    "Checkpoints",
    "check_matches",
    "latest_intact",
    "load_for_inference",
    "newest_readable",
    "read_metadata",
    "steps_in",
]
