"""The command line of `vswin_jax.main`: a config file, its overrides, a workdir and a mode."""

import difflib
import glob
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from vswin_jax.config.experiment_file import run_experiment
from vswin_jax.config.fit_to_videos import fit_to_videos
from vswin_jax.config.local_run import without_weights
from vswin_jax.config.overrides import apply_overrides, join_values
from vswin_jax.config.plugins import import_plugins, search_folder
from vswin_jax.config.run_config import ChosenConfig, config_of_run, ignore_file, saved_config
from vswin_jax.errors import InputError, unknown_name
from vswin_jax.reporting.profiling import DEFAULT_STEP_RANGE, parse_step_range
from vswin_jax.runtime.cluster_member import ClusterMember
from vswin_jax.runtime.distributed import HEARTBEAT_SECONDS

USAGE = """\
Trains or evaluates a Video Swin Transformer.

  python -m vswin_jax.main --config FILE[:ARGUMENT] --workdir DIR [--config.KEY=VALUE ...]
  python -m vswin_jax.main --mode=evaluate --workdir DIR [--config.KEY=VALUE ...]

  --config FILE        an experiment, such as experiments/quickstart.py; many take an argument:
                       experiments/k400.py:variant=base,pretrain=22k (the head of the file lists
                       them); with `runlocal` in it the run shrinks to a few steps on a CPU;
                       a workdir with a checkpoint needs none: its own config holds, with what
                       the command line changes; --mode=evaluate ignores a file there
  --config.KEY=VALUE   changes a setting, such as --config.optim.learning_rate=3e-4
  --workdir DIR        where the run writes; the same command resumes from it
  --mode MODE          train (default); evaluate: score the workdir's latest checkpoint with all
                       test views (--config.eval.checkpoint=best: the one with the best quick score,
                       that of one centred clip, during training); dry_run: compile only, and print
                       what a step needs of each device (no data, and no workdir but for its config)
  --topology NAME      with dry_run: compile for devices that are not here, such as v5e:16x16 or
                       v5e-256, h100:8, or a machine type of a cloud, such as a3-highgpu-8g
  --allow_changes      resumes although other videos, another batch size, learning rate, duration or
                       the like mean that the steps to come do not continue those before; without
                       it such a run is refused
  --profile [A:B]      traces steps A to B, counted from 1 where this start begins, into the
                       workdir's profile directory (without A:B, 10:14)
  --show_parameters    logs a table of all parameters, with their shapes and shardings

  Several processes train as one, each started with this command. On a TPU slice and under SLURM
  nothing more is needed (scripts/launch); elsewhere each process is given its own ID, from 0 up:

  --coordinator HOST:PORT --num_processes N --process_id I
                       where process 0 runs, with a port that is free there
  --heartbeat SECONDS  all processes end if one sends no heartbeat for that long (100)
"""
MODES = ("train", "evaluate", "dry_run")
_FLAGS = (
    *("--config", "--workdir", "--mode", "--topology", "--allow_changes", "--profile", "--help"),
    "--show_parameters",
    *("--coordinator", "--num_processes", "--process_id", "--heartbeat"),
)


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line; `config` is locked and has its overrides.

    `workdir` is "" in a dry run, which writes nothing. `topology` is "" for the devices of this
    machine. `profile` is the first and the last step to trace. `run_config` is the config of the
    checkpoint that `config` was taken from, or None. `notes` are lines for the log.
    """

    config: ConfigDict
    workdir: str
    mode: str
    topology: str
    allow_changes: bool = False
    profile: tuple[int, int] | None = None
    show_parameters: bool = False
    cluster_member: ClusterMember | None = None
    heartbeat: int = HEARTBEAT_SECONDS
    run_config: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


def parse(arguments: Sequence[str]) -> CommandLine | None:
    """Parse the arguments (without the program's name); None if only help was requested.

    Raises:
      InputError: an unknown flag or config key, a missing value or file, a wrong value.
    """
    values, overrides = _own_flags(arguments)
    if values.help:
        return None
    if not (values.config or values.workdir):
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
    chosen = _choose_config(values, overrides)
    return CommandLine(
        config=chosen.config,
        run_config=chosen.saved,
        notes=chosen.notes,
        workdir=values.workdir,
        mode=values.mode,
        topology=values.topology,
        allow_changes=values.allow_changes,
        profile=profile,
        show_parameters=values.show_parameters,
        cluster_member=ClusterMember.from_flags(
            values.coordinator, values.num_processes, values.process_id
        ),
        heartbeat=values.heartbeat,
    )


def _choose_config(values: flags.FlagValues, overrides: Sequence[str]) -> ChosenConfig:
    """Return the config of the workdir's checkpoint to evaluate, or in place of a missing file."""
    argument = _split_argument(values.config)[1]
    overrides, notes = without_weights(argument, overrides)
    of_file = override(load(values.config), overrides) if values.config else None
    needs_saved = of_file is None or values.mode == "evaluate"
    saved = saved_config(values.workdir) if needs_saved else None
    if saved is not None:
        chosen = config_of_run(
            saved, values.workdir, overrides, override, evaluates=values.mode == "evaluate"
        )
        return ignore_file(chosen, values.config, of_file) if of_file is not None else chosen
    if of_file is None:
        raise InputError(
            f"Expected --config FILE, since {values.workdir!r} has no checkpoint with a config: "
            f"give an experiment, or the workdir of a run, or --help for more."
        )
    saved = saved_config(values.workdir) if of_file.train.get("fit_to_videos") else None
    return ChosenConfig(of_file, notes=(*notes, *fit_to_videos(of_file, overrides, saved)))


def _own_flags(arguments: Sequence[str]) -> tuple[flags.FlagValues, list[str]]:
    values = flags.FlagValues()
    values.set_gnu_getopt()  # a stray word does not hide the flags after it
    flags.DEFINE_string("config", "", "", flag_values=values)
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_string("mode", "train", "", flag_values=values)
    flags.DEFINE_string("topology", "", "", flag_values=values)
    flags.DEFINE_bool("allow_changes", False, "", flag_values=values)
    flags.DEFINE_string("profile", "", "", flag_values=values)
    flags.DEFINE_bool("show_parameters", False, "", flag_values=values)
    flags.DEFINE_string("coordinator", "", "", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "", flag_values=values)
    flags.DEFINE_integer("process_id", None, "", flag_values=values)
    flags.DEFINE_integer("heartbeat", HEARTBEAT_SECONDS, "", 10, flag_values=values)
    flags.DEFINE_bool("help", False, "", short_name="h", flag_values=values)
    try:
        rest = values(["main", *_with_step_range(join_values(arguments))], known_only=True)
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
            f"such as {_similar_file(file) or 'experiments/quickstart.py'}."
        )
    if not os.access(file, os.R_OK):
        raise InputError(f"The config file {file!r} cannot be read: change its permissions.")
    search_folder(os.path.dirname(file))
    config = run_experiment(file, argument)
    # A config that a user has made by hand need not have every field.
    import_plugins(config.get("plugins", ""))
    return config


def _similar_file(file: str) -> str | None:
    """Return an experiment that exists, for its name without folder or suffix, or with a typo."""
    folder, name = os.path.split(file)
    known = [*glob.glob(os.path.join(glob.escape(folder), "*.py")), *glob.glob("experiments/*.py")]
    by_name = {os.path.basename(path).removesuffix(".py"): path for path in reversed(known)}
    near = difflib.get_close_matches(name.removesuffix(".py"), by_name, n=1)
    return by_name[near[0]] if near else None


def _split_argument(path: str) -> tuple[str, str]:
    """Split FILE:ARGUMENT at the first colon that follows a file; both may contain others."""
    ends = [match.start() for match in re.finditer(":", path)]
    end = next((end for end in ends if os.path.isfile(path[:end])), None)
    if end is None and ends and not os.path.isfile(path):
        end = ends[0]
    return (path, "") if end is None else (path[:end], path[end + 1 :])


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Apply `--config.KEY=VALUE` arguments to `config` and return it, locked.

    In settings that are paths, `~` is the home directory. Videos that are named here replace those
    of moving_shapes.

    Raises:
      InputError: any other argument, an unknown key, a value of another type.
    """
    config = apply_overrides(config, overrides, _FLAGS)
    # Those that a checkpoint's config names are not imported.
    if any(text.lstrip("-").startswith("config.plugins=") for text in join_values(overrides)):
        import_plugins(config.plugins)
    return config
