"""Runs a compiled step on the test views of all videos of a source, in batches."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree

from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.example import Source
from vswin_jax.data.pipeline.pipeline import eval_batches
from vswin_jax.errors import InputError
from vswin_jax.inference.stored_programs import stored_programs
from vswin_jax.sharding.mesh import place_batch

BatchStep = Callable[[PyTree, Mapping[str, Any]], Mapping[str, jax.Array]]


@dataclass(frozen=True)
class BatchOutputs:
    """The results of one batch.

    Attributes:
      ids: the indices in the source of the B readable videos, in order.
      outputs: the step's results of these videos, [B, ...].
      failures: the reasons why the other videos cannot be read, by index.
    """

    ids: Int[np.ndarray, " B"]
    outputs: Mapping[str, np.ndarray]
    failures: Mapping[int, str]


def divisible_batch_size(size: int, devices: int) -> int:
    """Return the smallest number of videos from `size` on that the devices divide.

    Raises:
      InputError: `size` is less than one.
    """
    if size < 1:
        raise InputError(f"Expected a batch size of 1 or more but {size} came.")
    return math.ceil(size / devices) * devices


def run_batches(
    step: BatchStep,
    params: PyTree,
    source: Source,
    spec: ClipSpec,
    *,
    batch_size: int,
    mesh: Mesh,
    processes: int,
) -> Iterator[BatchOutputs]:
    """Yield the results of each batch, in the order of `source`.

    `batch_size` is a multiple of the devices of `mesh`, which share each batch; `processes` decode,
    or threads if it is 0. The results of a batch are fetched while the next one runs. Programs are
    kept for later processes.
    """
    omitted: dict[int, str] = {}
    batches = eval_batches(
        source, spec, batch_size=batch_size, processes=processes, omitted=omitted
    )
    with contextlib.closing(batches):
        for rows, (ids, is_real) in run_each(step, params, batches, mesh):
            yield BatchOutputs(
                ids=ids[is_real],
                outputs={name: values[is_real] for name, values in rows.items()},
                failures={
                    index: omitted.pop(index) for index in ids[~is_real & (ids >= 0)].tolist()
                },
            )


def run_each(
    step: BatchStep, params: PyTree, batches: Iterable[Mapping[str, np.ndarray]], mesh: Mesh
) -> Iterator[tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]]:
    """Yield the step's results of each batch, with the batch's ids and which rows are real.

    The results of a batch are fetched while the next one runs. Programs are kept for later
    processes.
    """
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    pending = None
    compiling: contextlib.AbstractContextManager[None] = stored_programs()
    for batch in batches:
        with compiling:
            outputs = step(params, place_batch(batch, mesh))
        compiling = contextlib.nullcontext()
        if pending is not None:
            yield jax.device_get(dict(pending[0])), pending[1]
        # The arrays of a batch are used again for a later one.
        pending = outputs, (batch["id"].copy(), batch["mask"] > 0)
    if pending is not None:
        yield jax.device_get(dict(pending[0])), pending[1]
