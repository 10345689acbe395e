"""Reads a checkpoint: its metadata, the shapes of its state, its parameters for inference."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from vswin_jax.checkpoint.filter_logs import filter_orbax_logs
from vswin_jax.checkpoint.step_directories import (
    PROGRAM,
    absolute_path,
    find_damage,
    read_score,
    steps_in,
)
from vswin_jax.errors import InputError

# Raised by Orbax and TensorStore for files that are missing, truncated or of another format.
_UNREADABLE = (ValueError, OSError, KeyError, TypeError)


def load_for_inference(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """Load the (parameters, metadata) of a checkpoint, the averaged parameters where it has them.

    `path` is a run's directory, its `checkpoints` directory, or the directory of one step. Of
    several steps, the best one is loaded, or the latest if none has a score. The parameters are
    NumPy arrays; the devices of the training run are not needed.

    Raises:
      InputError: there is no checkpoint, or it cannot be read, or another program wrote it.
    """
    directory = _step_directory(absolute_path(path))
    _check_intact(directory)
    metadata = read_step_metadata(directory)
    saved = saved_tree(directory)
    name = "ema_params" if saved.get("ema_params") else "params"
    target = {name: saved.get(name)}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    arguments = ocp.args.PyTreeRestore(item=target, restore_args=as_numpy, partial_restore=True)
    with reraise_unreadable(directory), ocp.PyTreeCheckpointer() as reader:
        return reader.restore(directory / "state", args=arguments)[name], metadata


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metadata of a checkpoint; `path` and errors as for `load_for_inference`."""
    return read_step_metadata(_step_directory(absolute_path(path)))


def saved_tree(directory: epath.Path) -> dict[str, Any]:
    """Read the structure of a saved state, as dictionaries and lists with shapes as leaves."""
    with reraise_unreadable(directory), ocp.PyTreeCheckpointer() as reader:
        saved = reader.metadata(directory / "state").item_metadata
        if saved is None:
            raise FileNotFoundError("its state has no metadata")
        return saved.tree


def _step_directory(path: epath.Path) -> epath.Path:
    if not path.exists():
        raise InputError(
            f"A checkpoint was expected at '{path}', but nothing is there: give the directory of a "
            f"run, or of one of its checkpoints."
        )
    if (path / "state").is_dir():
        return path
    root = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    steps = steps_in(root)
    if not steps:
        convert = ", or convert this file with scripts/convert_weights.py" if path.is_file() else ""
        raise InputError(
            f"No checkpoint was found in '{root}': give the directory of a run that has saved one"
            f"{convert}."
        )
    return root / str(_best_step(steps))


def _best_step(steps: Mapping[int, epath.Path]) -> int:
    """Return the step with the highest score, the later of equals; the last if none has a score."""
    for step, directory in steps.items():
        reason = find_damage(directory, thorough=False)
        if reason:
            raise InputError(
                f"The best checkpoint in '{directory.parent}' cannot be determined, because that "
                f"of step {step} is damaged ({reason}): give the directory of another step, or "
                f"start the training again, which renames the damaged one."
            )
    scores = {step: read_score(directory) for step, directory in steps.items()}
    scored = [(score, step) for step, score in scores.items() if score is not None]
    return max(scored)[1] if scored else max(steps)


def _check_intact(directory: epath.Path) -> None:
    reason = find_damage(directory, thorough=True)
    if reason:
        raise InputError(
            f"The checkpoint '{directory}' is damaged ({reason}): give another one, or start the "
            f"training again, which resumes from the newest one that is intact."
        )


def read_step_metadata(directory: epath.Path) -> dict[str, Any]:
    """Read the metadata of the step in `directory`; errors as for `load_for_inference`."""
    filter_orbax_logs()
    with reraise_unreadable(directory), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        metadata = reader.restore(directory / "metadata")
    if not isinstance(metadata, dict) or metadata.get("program") != PROGRAM:
        raise InputError(
            f"'{directory}' was written by a program other than {PROGRAM}: give a checkpoint "
            f"that {PROGRAM} has saved."
        )
    return metadata


@contextlib.contextmanager
def reraise_unreadable(directory: epath.Path) -> Iterator[None]:
    """Re-raise errors of reading as an `InputError` that names the checkpoint."""
    try:
        yield
    except _UNREADABLE as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        raise InputError(
            f"The checkpoint '{directory}' cannot be read, it is damaged or not a checkpoint of "
            f"{PROGRAM} ({type(error).__name__}: {reason}): use another one, or delete it to "
            f"resume from the previous one."
        ) from error
