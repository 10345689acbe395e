"""Writes weights as a checkpoint directory, in little more memory than the weights take."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from vswin_jax.checkpoint import manifest
from vswin_jax.checkpoint.step_directories import step_metadata
from vswin_jax.runtime.lazy_module import LazyModule

ocp = LazyModule("orbax.checkpoint")

_STEP = 0


def write_workdir(directory: Path, params: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write `params` into the empty `directory` as the workdir of a run that saved only step 0.

    Training's `Checkpoints` would need three times the memory of the parameters: Orbax copies
    NumPy arrays, and its OCDBT format buffers all of them until the end. One zarr directory per
    array avoids both, and the same calls restore it.

    Args:
      directory: an empty or missing directory.
      params: a tree of NumPy arrays with any strides, such as views of a mapped file.
      metadata: JSON-serializable, with `config` and `label_names`.
    """
    step = directory.absolute() / "checkpoints" / str(_STEP)
    step.mkdir(parents=True)
    state = {"params": params, "step": np.array(_STEP, np.int32)}
    with _only_errors_logged():
        with ocp.Checkpointer(_low_memory_handler()) as writer:
            writer.save(step / "state", args=ocp.args.PyTreeSave(state))
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as writer:
            writer.save(step / "metadata", args=ocp.args.JsonSave(step_metadata(metadata, _STEP)))
    manifest.write(epath.Path(step))


def _low_memory_handler() -> "ocp.PyTreeCheckpointHandler":
    # Orbax copies arrays in case they change while they are written. Here no code changes them.
    arrays = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, arrays))
    return ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=registry)


@contextlib.contextmanager
def _only_errors_logged() -> Iterator[None]:
    """Suppress Orbax's warnings, which concern arrays that are not JAX's and a missing OCDBT."""
    log = logging.getLogger("absl")
    log.addFilter(_is_error)
    try:
        yield
    finally:
        log.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
