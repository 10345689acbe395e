"""Checkpoints: training saves and restores them by Orbax, inference reads one.

The directory of a step holds the whole state, the metadata that inference needs (config, label
names) as JSON, and a manifest of its files. It gets its final name only when it is complete, so a
kill during a save leaves the previous step usable; and a step that was damaged afterwards is
recognised by its manifest.
"""

from vswin_jax.checkpoint.checkpoints import Checkpoints
from vswin_jax.checkpoint.chosen_step import ChosenStep, choose_step
from vswin_jax.checkpoint.file_owners import allow_unknown_owners
from vswin_jax.checkpoint.matching import check_matches
from vswin_jax.checkpoint.quarantine import latest_intact
from vswin_jax.checkpoint.reading import load_for_inference, load_step, read_metadata
from vswin_jax.checkpoint.step_directories import newest_readable, steps_in

__all__ = [
    "Checkpoints",
    "ChosenStep",
    "check_matches",
    "choose_step",
    "latest_intact",
    "load_for_inference",
    "load_step",
    "newest_readable",
    "read_metadata",
    "steps_in",
]

allow_unknown_owners()
