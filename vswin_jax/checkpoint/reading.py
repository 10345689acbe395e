"""The reading of a checkpoint: all of it for training, its parameters for inference."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from vswin_jax.checkpoint.filter_logs import quiet_orbax
from vswin_jax.checkpoint.step_directories import PROGRAM, absolute, damage, score_of, steps_in
from vswin_jax.errors import InputError

# What Orbax and TensorStore raise for files that are missing, cut short or not theirs.
_UNREADABLE = (ValueError, OSError, KeyError, TypeError)


def load_for_inference(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """The (parameters, metadata) of a checkpoint, the averaged parameters where it has them.

    `path` is a run's directory, its `checkpoints` directory, or the directory of one step; of
    several steps the best one is taken, or the latest where none has a score. The parameters are
    NumPy arrays, and neither the optimizer's state nor the devices it was on are needed.

    Raises:
      InputError: nothing there, no checkpoint there, or one that cannot be read or is not ours.
    """
    directory = _step_directory(absolute(path))
    _check_intact(directory)
    metadata = metadata_of(directory)
    saved = saved_tree(directory)
    name = "ema_params" if saved.get("ema_params") else "params"
    wanted = {name: saved.get(name)}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
    with reading(directory), ocp.PyTreeCheckpointer() as reader:
        return reader.restore(directory / "state", args=arguments)[name], metadata


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What was saved beside the state; `path` and errors as for `load_for_inference`."""
    return metadata_of(_step_directory(absolute(path)))


def saved_tree(directory: epath.Path) -> dict[str, Any]:
    """The saved state's tree as plain dictionaries and lists, with shapes for leaves."""
    with reading(directory), ocp.PyTreeCheckpointer() as reader:
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
        raise InputError(
            f"No checkpoint was found in '{root}': give the directory of a run that has saved one."
        )
    return root / str(_best(steps))


def _best(steps: Mapping[int, epath.Path]) -> int:
    """The step with the highest score, of equal ones the last; without scores the last of all."""
    for step, directory in steps.items():
        reason = damage(directory, thorough=False)
        if reason:
            raise InputError(
                f"Which checkpoint in '{directory.parent}' is the best cannot be told, because "
                f"that of step {step} is damaged ({reason}): give the directory of another step, "
                f"or start the training again, which puts the damaged one aside."
            )
    scores = {step: score_of(directory) for step, directory in steps.items()}
    scored = [(score, step) for step, score in scores.items() if score is not None]
    return max(scored)[1] if scored else max(steps)


def _check_intact(directory: epath.Path) -> None:
    reason = damage(directory, thorough=True)
    if reason:
        raise InputError(
            f"The checkpoint '{directory}' is damaged ({reason}): give another one, or start the "
            f"training again, which goes on from the newest one that is intact."
        )


def metadata_of(directory: epath.Path) -> dict[str, Any]:
    """What was saved beside the state of the step in `directory`; errors as for `reading`."""
    quiet_orbax()
    with reading(directory), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        metadata = reader.restore(directory / "metadata")
    if not isinstance(metadata, dict) or metadata.get("program") != PROGRAM:
        raise InputError(
            f"'{directory}' was written by another program than {PROGRAM}: give a checkpoint "
            f"that {PROGRAM} has saved."
        )
    return metadata


@contextlib.contextmanager
def reading(directory: epath.Path) -> Iterator[None]:
    """Turns what reading raises into an `InputError` that names the checkpoint."""
    try:
        yield
    except _UNREADABLE as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        raise InputError(
            f"The checkpoint '{directory}' cannot be read, it is damaged or no checkpoint of ours "
            f"({type(error).__name__}: {reason}): use another one, or delete it to go on from the "
            f"one before."
        ) from error
