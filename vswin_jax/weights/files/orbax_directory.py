"""Weights as a checkpoint directory of ours, written in little more memory than they take."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from vswin_jax.checkpoint import manifest
from vswin_jax.checkpoint.step_directories import described

_STEP = 0


def write_run(directory: Path, params: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Writes `params` into the empty `directory` as a run that has saved its step 0 and no more.

    What training's own `Checkpoints` writes needs three times the memory of the parameters: Orbax
    copies NumPy arrays, and its OCDBT format holds all that is written until the end. A zarr
    directory for each array needs neither, and is read by the same calls.

    Args:
      params: NumPy arrays, in any strides; views of a file are written from it.
      metadata: JSON-like, with `config` and `label_names`.
    """
    step = directory.absolute() / "checkpoints" / str(_STEP)
    step.mkdir(parents=True)
    state = {"params": params, "step": np.array(_STEP, np.int32)}
    with _quiet():
        with ocp.Checkpointer(_frugal_handler()) as writer:
            writer.save(step / "state", args=ocp.args.PyTreeSave(state))
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as writer:
            writer.save(step / "metadata", args=ocp.args.JsonSave(described(metadata, _STEP)))
    manifest.write(epath.Path(step))


def _frugal_handler() -> ocp.PyTreeCheckpointHandler:
    # Orbax copies lest somebody changes the arrays while they are written, which nobody does.
    arrays = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, arrays))
    return ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=registry)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps out of the log that the arrays are neither JAX's nor in OCDBT, of which Orbax warns."""
    log = logging.getLogger("absl")
    log.addFilter(_is_error)
    try:
        yield
    finally:
        log.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
