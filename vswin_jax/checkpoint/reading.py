"""Reads a checkpoint: its metadata, the shapes of its state, its parameters for inference."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from vswin_jax.checkpoint.chosen_step import (
    LATEST,
    ChosenStep,
    best_step,
    checkpoint_root,
    choose_step,
)
from vswin_jax.checkpoint.filter_logs import filter_orbax_logs
from vswin_jax.checkpoint.step_directories import (
    PROGRAM,
    absolute_path,
    newest_readable,
    steps_in,
)
from vswin_jax.errors import InputError
from vswin_jax.runtime.lazy_module import LazyModule

ocp = LazyModule("orbax.checkpoint")

# Where Orbax's `JsonCheckpointHandler` writes it.
_METADATA = "metadata/metadata"
# Raised by Orbax and TensorStore for files that are missing, truncated or of another format.
_UNREADABLE = (ValueError, OSError, KeyError, TypeError)


def load_for_inference(
    path: str | os.PathLike[str], which: str = LATEST
) -> tuple[Any, dict[str, Any]]:
    """Load the (parameters, metadata) of a checkpoint, the averaged parameters where it has them.

    `path` and `which` are those of `choose_step`. The parameters are NumPy arrays; the devices of
    the training run are not needed.

    Raises:
      InputError: there is no checkpoint, or it cannot be read, or another program wrote it.
    """
    return load_step(choose_step(path, which))


def load_step(chosen: ChosenStep) -> tuple[Any, dict[str, Any]]:
    """Load a step that is chosen and checked; result and errors as for `load_for_inference`."""
    directory = chosen.directory
    metadata = read_step_metadata(directory)
    saved = saved_tree(directory)
    name = "ema_params" if saved.get("ema_params") else "params"
    target = {name: saved.get(name)}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    arguments = ocp.args.PyTreeRestore(item=target, restore_args=as_numpy, partial_restore=True)
    with reraise_unreadable(directory), ocp.PyTreeCheckpointer() as reader:
        return reader.restore(directory / "state", args=arguments)[name], metadata


def read_metadata(path: str | os.PathLike[str], which: str = LATEST) -> dict[str, Any]:
    """Read the metadata of a checkpoint; `path` and errors as for `load_for_inference`.

    The content of large files is not read, so damage in them does not lead to another step.
    """
    directory = absolute_path(path)
    root = checkpoint_root(directory)
    if root is None:
        return read_step_metadata(directory)
    if which == LATEST:
        return read_step_metadata(newest_readable(root) or choose_step(root).directory)
    return read_step_metadata(root / str(best_step(steps_in(root))))


def saved_tree(directory: epath.Path) -> dict[str, Any]:
    """Read the structure of a saved state, as dictionaries and lists with shapes as leaves."""
    filter_orbax_logs()
    with reraise_unreadable(directory), ocp.PyTreeCheckpointer() as reader:
        saved = reader.metadata(directory / "state").item_metadata
        if saved is None:
            raise FileNotFoundError("its state has no metadata")
        return saved.tree


def read_step_metadata(directory: epath.Path) -> dict[str, Any]:
    """Read the metadata of the step in `directory`; errors as for `load_for_inference`."""
    # Not by Orbax, which initialises JAX: a command reads its config before it joins the others.
    with reraise_unreadable(directory):
        metadata = json.loads((directory / _METADATA).read_bytes())
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
