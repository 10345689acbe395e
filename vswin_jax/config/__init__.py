"""Settings of a run: every field with its default, checks and the command line."""

from vswin_jax.config.base import RUNLOCAL, base_config, parse_argument, runlocal

__all__ = ["RUNLOCAL", "base_config", "parse_argument", "runlocal"]
