"""The command line of `vswin_jax.main`: a config file, its overrides, a workdir and a mode."""

import itertools
import os
import re
import runpy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from vswin_jax.config.renames import RENAMED
from vswin_jax.errors import InputError, unknown_name
from vswin_jax.reporting.profiling import DEFAULT_STEP_RANGE, parse_step_range
from vswin_jax.runtime.cluster_member import ClusterMember
from vswin_jax.runtime.distributed import HEARTBEAT_SECONDS

USAGE = """\
Trains or evaluates a Video Swin Transformer.

  python -m vswin_jax.main --config FILE[:ARGUMENT] --workdir DIR [--config.KEY=VALUE ...]

  --config FILE        an experiment, such as experiments/quickstart.py; many take an argument:
                       experiments/k400.py:variant=base,pretrain=22k (the head of the file lists
                       them); with `runlocal` in it the run shrinks to a few steps on a CPU
  --config.KEY=VALUE   changes a setting, such as --config.optim.learning_rate=3e-4
  --workdir DIR        where the run writes; the same command resumes from it
  --mode MODE          train (default); evaluate: score the checkpoint in the workdir; dry_run:
                       compile only, and print what a step needs of each device (no data and no
                       workdir)
  --topology SLICE     with dry_run: compile for devices that are not here, such as v5e:16x16
  --allow_changes      resumes although other videos, another batch size, learning rate, duration or
                       the like mean that the steps to come do not continue those before; without
                       it such a run is refused
  --profile [A:B]      traces steps A to B, counted from 1 where this start begins, into the
                       workdir's profile directory (without A:B, 10:14)

  Several processes train as one, each started with this command. On a TPU slice and under SLURM
  nothing more is needed (scripts/launch); elsewhere each process is given its own ID, from 0 up:

  --coordinator HOST:PORT --num_processes N --process_id I
                       where process 0 runs, with a port that is free there
  --heartbeat SECONDS  all processes end if one sends no heartbeat for that long (100)
"""
PATH_KEYS = (
    *("init_from", "data.train", "data.eval", "data.root", "data.label_names"),
    *("data.flip_labels", "train.compilation_cache"),
)
MODES = ("train", "evaluate", "dry_run")
_FLAGS = (
    *("--config", "--workdir", "--mode", "--topology", "--allow_changes", "--profile", "--help"),
    *("--coordinator", "--num_processes", "--process_id", "--heartbeat"),
)


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line; `config` is locked and has its overrides.

    `workdir` is "" in a dry run, which writes nothing. `topology` is "" for the devices of this
    machine. `profile` is the first and the last step to trace.
    """

    config: ConfigDict
    workdir: str
    mode: str
    topology: str
    allow_changes: bool = False
    profile: tuple[int, int] | None = None
    cluster_member: ClusterMember | None = None
    heartbeat: int = HEARTBEAT_SECONDS


def parse(arguments: Sequence[str]) -> CommandLine | None:
    """Parse the arguments (without the program's name); None if only help was requested.

    Raises:
      InputError: an unknown flag or config key, a missing value or file, a wrong value.
    """
    values, overrides = _own_flags(arguments)
    if values.help:
        return None
    if not values.config:
        raise InputError("Expected --config FILE: give an experiment, or --help for more.")
    if values.mode not in MODES:
        raise unknown_name("--mode", values.mode, MODES)
    if not values.workdir and values.mode != "dry_run":
        raise InputError("Expected --workdir DIR: give the directory that the run writes to.")
    if values.topology and values.mode != "dry_run":
        raise InputError(
            f"--topology {values.topology} is for compiling only: add --mode=dry_run, or leave "
            f"it out to run on the devices of this machine."
        )
    if values.allow_changes and values.mode != "train":
        raise InputError(
            f"Expected --allow_changes with --mode=train alone but got {values.mode!r}: leave it "
            f"out."
        )
    profile = parse_step_range(values.profile)
    if profile and values.mode != "train":
        raise InputError(f"Expected --profile with --mode=train alone but got {values.mode!r}.")
    return CommandLine(
        config=override(load(values.config), overrides),
        workdir=values.workdir,
        mode=values.mode,
        topology=values.topology,
        allow_changes=values.allow_changes,
        profile=profile,
        cluster_member=ClusterMember.from_flags(
            values.coordinator, values.num_processes, values.process_id
        ),
        heartbeat=values.heartbeat,
    )


def _own_flags(arguments: Sequence[str]) -> tuple[flags.FlagValues, list[str]]:
    values = flags.FlagValues()
    flags.DEFINE_string("config", "", "", flag_values=values)
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_string("mode", "train", "", flag_values=values)
    flags.DEFINE_string("topology", "", "", flag_values=values)
    flags.DEFINE_bool("allow_changes", False, "", flag_values=values)
    flags.DEFINE_string("profile", "", "", flag_values=values)
    flags.DEFINE_string("coordinator", "", "", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "", flag_values=values)
    flags.DEFINE_integer("process_id", None, "", flag_values=values)
    flags.DEFINE_integer("heartbeat", HEARTBEAT_SECONDS, "", 10, flag_values=values)
    flags.DEFINE_bool("help", False, "", short_name="h", flag_values=values)
    try:
        rest = values(["main", *_with_step_range(arguments)], known_only=True)
    except flags.Error as error:
        raise InputError(f"The command line cannot be read: {error}; see --help.") from error
    return values, rest[1:]


def _with_step_range(arguments: Sequence[str]) -> list[str]:
    """Give a `--profile` without a value the default step range."""
    return [
        f"--profile={DEFAULT_STEP_RANGE}"
        if argument in ("-profile", "--profile") and after.startswith("-")
        else argument
        for argument, after in itertools.pairwise([*arguments, "--"])
    ]


def load(path: str) -> ConfigDict:
    """Load the config of FILE or FILE:ARGUMENT.

    Raises:
      InputError: no such file, or one that cannot be read or defines no experiment.
    """
    file, argument = _split_argument(os.path.expanduser(path))
    if not os.path.isfile(file):
        raise InputError(
            f"Expected a config file but {file!r} does not exist: give the path of an experiment, "
            f"such as experiments/quickstart.py."
        )
    if not os.access(file, os.R_OK):
        raise InputError(f"The config file {file!r} cannot be read: change its permissions.")
    get_config = runpy.run_path(file).get("get_config")
    if get_config is None:
        raise InputError(f"Expected {file!r} to define get_config(argument) but it does not.")
    return get_config(argument)


def _split_argument(path: str) -> tuple[str, str]:
    """Split FILE:ARGUMENT at the first colon that follows a file; both may contain others."""
    ends = [match.start() for match in re.finditer(":", path)]
    end = next((end for end in ends if os.path.isfile(path[:end])), None)
    if end is None and ends and not os.path.isfile(path):
        end = ends[0]
    return (path, "") if end is None else (path[:end], path[end + 1 :])


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Apply `--config.KEY=VALUE` arguments to `config` and return it, locked.

    In settings that are paths, `~` is the home directory.

    Raises:
      InputError: any other argument, an unknown key, a value of another type.
    """
    _check_overrides(overrides, list(_keys(config)))
    values = flags.FlagValues()
    argv = ["main", *overrides]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except flags.Error as error:
        raise InputError(f"A setting has a value of the wrong type: {error}.") from error
    return _with_home_directory(values.config)


def _with_home_directory(config: ConfigDict) -> ConfigDict:
    """Replace a leading `~` in the settings that are paths, and return `config`."""
    for key in PATH_KEYS:
        section, _, name = key.rpartition(".")
        parent = config[section] if section else config
        # A config that a user has made by hand need not have every field.
        if isinstance(parent.get(name), str):
            parent[name] = os.path.expanduser(parent[name])
    return config


def _check_overrides(overrides: Sequence[str], keys: Sequence[str]) -> None:
    """Refuse wrong overrides before they are parsed: absl drops some and raises for others."""
    for argument in overrides:
        name, equals, _ = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or not name.startswith("config."):
            raise unknown_name("argument", argument, _FLAGS)
        key = name.removeprefix("config.")
        if key in RENAMED:
            raise InputError(f"config.{key} is now called config.{RENAMED[key]}: use that name.")
        if key not in keys:
            raise unknown_name("config key", key, _neighbours(key, keys))
        if not equals:
            raise InputError(f"Expected --config.{key}=VALUE but no value came.")


def _neighbours(key: str, keys: Sequence[str]) -> list[str]:
    """List the keys that a wrong one may mean: siblings and namesakes, or else all sections."""
    section, _, last = key.rpartition(".")
    siblings = [k for k in keys if section and k.startswith(f"{section}.")]
    namesakes = [k for k in keys if k.rpartition(".")[2] == last]
    if siblings or namesakes:
        return sorted({*siblings, *namesakes})
    return sorted({k if "." not in k else f"{k.partition('.')[0]}.*" for k in keys})


def _keys(config: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
