"""The first line of a command, before the imports that take seconds."""

import itertools
import os
import time
from collections.abc import Mapping, Sequence

from vswin_jax import __version__
from vswin_jax.runtime.standard_streams import prepare_streams, print_message

_ACTIVITIES = {"train": "training", "evaluate": "evaluating", "dry_run": "compiling"}
# The index of a process in its run: the flag, then SLURM, a TPU slice, Open MPI and Kubernetes.
_INDEX_FLAG = "process_id"
_INDEX_VARIABLES = (
    *("SLURM_PROCID", "TPU_WORKER_ID", "CLOUD_TPU_TASK_ID", "OMPI_COMM_WORLD_RANK"),
    "JOB_COMPLETION_INDEX",
)


def announce(arguments: Sequence[str]) -> None:
    """Log to stderr what this process is about to do, unless that is nothing or another logs it."""
    prepare_streams()
    line = first_line(arguments, os.environ)
    if line is not None:
        print_message(f"{time.strftime('%H:%M:%S')}  {line}")


def first_line(arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Return the line for the arguments of `vswin_jax.main`; None if they are for other processes.

    The arguments are read loosely: their parser, which also checks them, needs JAX.
    """
    flags = _flags(arguments)
    activity = _ACTIVITIES.get(flags.get("mode", "train"))
    if activity is None or {"help", "h"} & flags.keys() or not {"config", "workdir"} & flags.keys():
        return None
    if _process_index(flags, environment) not in ("", "0"):
        return None
    parts = [f"vswin_jax {__version__}: {activity}"]
    if flags.get("config"):
        parts.append(f"by {flags['config']}")
    if flags.get("workdir"):
        parts.append(f"in {flags['workdir']}")
    return f"{' '.join(parts)}; importing JAX"


def _flags(arguments: Sequence[str]) -> dict[str, str]:
    """Return the values of the flags; that of a flag alone is the argument after it."""
    flags = {}
    for argument, after in itertools.pairwise([*arguments, ""]):
        if argument.startswith("-"):
            name, equals, value = argument.lstrip("-").partition("=")
            flags[name] = value if equals else after
    return flags


def _process_index(flags: Mapping[str, str], environment: Mapping[str, str]) -> str:
    indices = [flags.get(_INDEX_FLAG), *map(environment.get, _INDEX_VARIABLES)]
    return next(filter(None, indices), "")
