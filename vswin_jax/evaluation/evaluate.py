"""Exact evaluation: every video of a set once, for any batch size and number of devices.

The step averages the views of each video (`Task.average_views`). The loop gathers the rows of all
hosts, drops the padding and checks that the remaining rows are the whole set.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jaxtyping import PyTree

from vswin_jax.evaluation.results import AnyEvaluation, Evaluation, MultiLabelEvaluation
from vswin_jax.runtime import preemption, watchdog
from vswin_jax.runtime.distributed import compile_together
from vswin_jax.runtime.progress import Progress
from vswin_jax.training.step_inputs import Batch
from vswin_jax.training.steps import EvalStep

log = logging.getLogger(__name__)

# Seconds between two progress lines in the log.
_LOG_INTERVAL = 15.0


def evaluate(
    eval_step: EvalStep,
    params: PyTree,
    batches: Iterable[Batch],
    *,
    num_examples: int,
    place: Callable[[Batch], Batch],
) -> AnyEvaluation:
    """Run every batch and return the evaluation of all `num_examples` videos, on every host.

    `eval_step` is made by `jax.jit`. Every host has the same number of `batches`, whose padded rows
    have mask 0; `place` puts a batch on the devices. The results of a batch are read while the next
    batch runs.

    Raises:
      StopRequested: a signal arrived while signals are deferred (`SignalWatcher.defer_signals`).
      RuntimeError: the batches do not hold each of the ids 0 to num_examples - 1 once.
    """
    parts = list(_evaluated_rows(eval_step, params, batches, num_examples, place))
    return _assemble(parts, num_examples)


def _evaluated_rows(
    eval_step: EvalStep,
    params: PyTree,
    batches: Iterable[Batch],
    num_examples: int,
    place: Callable[[Batch], Batch],
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the real rows of each batch while the next batch runs on the devices."""
    progress = Progress(
        total=num_examples,
        write_line=lambda line: log.info("evaluated %s", line),
        interval=_LOG_INTERVAL,
    )
    pending = None
    for number, batch in enumerate(batches):
        preemption.sync_point()
        placed = place(batch)
        if number == 0:
            # Compilation takes minutes and does not return to Python to handle a signal.
            compiling = functools.partial(compile_together, eval_step, params, placed)
            preemption.run_abandonable(compiling)
            preemption.sync_point()
        # Results are fetched in `_real_rows` alone, a batch later: a stray float(array) here would
        # make every batch wait for the device.
        with jax.transfer_guard_device_to_host("disallow"):
            outputs = eval_step(params, placed)
        watchdog.heartbeat()
        running = {**outputs, **{name: placed[name] for name in ("id", "label", "mask")}}
        if pending is not None:
            rows = _real_rows(pending)
            progress.add(len(rows["id"]))
            yield rows
        pending = running
    if pending is not None:
        yield _real_rows(pending)


def _real_rows(outputs: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """Gather the rows of all hosts whose mask is not 0."""
    rows = process_allgather(dict(outputs), tiled=True)
    real = rows.pop("mask") > 0
    return {name: values[real] for name, values in rows.items()}


def _assemble(parts: Sequence[Mapping[str, np.ndarray]], num_examples: int) -> AnyEvaluation:
    """Concatenate the rows in the order of the set, after checking that they are the whole set."""
    ids = np.concatenate([part["id"] for part in parts]) if parts else np.zeros(0, np.int32)
    order = np.argsort(ids, kind="stable")
    if not np.array_equal(ids[order], np.arange(num_examples)):
        raise RuntimeError(
            f"Expected each of {num_examples} videos once in the evaluation, but got {len(ids)} "
            f"rows of {len(np.unique(ids))} videos."
        )
    labels, probabilities, losses = (
        np.concatenate([part[name] for part in parts])[order]
        for name in ("label", "probabilities", "loss")
    )
    kind = Evaluation if labels.ndim == 1 else MultiLabelEvaluation
    return kind(labels=labels, probabilities=probabilities, losses=losses)
