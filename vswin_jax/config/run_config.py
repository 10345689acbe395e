"""The config of a command: that of an experiment file, or that of the checkpoint in a workdir.

A run that is evaluated keeps its own settings: those of its checkpoint, with the overrides of the
command line on top. An experiment file that is named all the same does not count, because its
values may be others than those with which the run was trained.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ml_collections import ConfigDict

from vswin_jax.config.changes import differing_settings
from vswin_jax.config.renames import load_saved_config
from vswin_jax.errors import join_some
from vswin_jax.runtime.output_path import local_path

_MAX_SHOWN = 6
# From a config and overrides to the config with them.
Override = Callable[[ConfigDict, Sequence[str]], ConfigDict]


@dataclass(frozen=True)
class ChosenConfig:
    """A config, and where it is from.

    Attributes:
      config: has the overrides of the command line.
      saved: the config of the checkpoint that it was taken from, or None if it is a file's.
      notes: lines for the log on what is ignored.
    """

    config: ConfigDict
    saved: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


def saved_config(workdir: str, which: str = "latest") -> Mapping[str, Any] | None:
    """Read the config of the checkpoint in `workdir`; None without a checkpoint, or one in it.

    Raises:
      InputError: the checkpoint cannot be read.
    """
    if not workdir:
        return None
    path = local_path(workdir, "--workdir")
    if not (path / "checkpoints").is_dir():
        return None
    # Orbax takes seconds to import, which a new run need not wait for here.
    from vswin_jax import checkpoint

    if not checkpoint.steps_in(path / "checkpoints"):
        return None
    # A program that calls `train` itself may have saved no config.
    return checkpoint.read_metadata(path, which).get("config") or None


def config_of_run(
    saved: Mapping[str, Any],
    workdir: str,
    overrides: Sequence[str],
    override: Override,
    *,
    evaluates: bool,
) -> ChosenConfig:
    """Return the config of the checkpoint in `workdir` with `overrides`; `saved` is the latest's.

    To evaluate the best checkpoint, it is that one's: a run may have resumed with other settings.
    """
    config = override(load_saved_config(saved), overrides)
    if evaluates and config.eval.checkpoint == "best":
        saved = saved_config(workdir, "best") or saved
        config = override(load_saved_config(saved), overrides)
    return ChosenConfig(config, saved)


def ignore_file(chosen: ChosenConfig, file: str, file_config: ConfigDict) -> ChosenConfig:
    """Add a note on the settings of the experiment `file` that do not count, if there are any."""
    ignored = differing_settings(chosen.config.to_dict(), file_config)
    if not ignored:
        return chosen
    shown = [f"config.{name}={value!r} ({own!r})" for name, (value, own) in ignored.items()]
    note = (
        f"the run's own config holds: {file!r} differs from it in {len(ignored)} "
        f"setting{'s' if len(ignored) > 1 else ''}, which are ignored (the run's in parentheses): "
        f"{join_some(shown, _MAX_SHOWN)}; give a setting as --config.KEY=VALUE to change it"
    )
    return replace(chosen, notes=(note, *chosen.notes))
