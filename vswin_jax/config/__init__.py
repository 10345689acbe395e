"""Settings of a run: every field with its default, checks and the command line."""

from vswin_jax.config.base import base_config
from vswin_jax.config.experiment_argument import RUNLOCAL, parse_argument
from vswin_jax.config.local_run import runlocal

__all__ = ["RUNLOCAL", "base_config", "parse_argument", "runlocal"]
