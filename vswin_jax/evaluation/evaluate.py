"""Exact evaluation: every video of a set once, whatever the batch size and the device count.

Each video's views are averaged by the step (`task`); here the rows of all hosts come together,
padding is dropped, and what remains is checked to be the whole set.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from vswin_jax.evaluation.results import AnyEvaluation, Evaluation, MultiLabelEvaluation
from vswin_jax.runtime import preemption, watchdog
from vswin_jax.runtime.distributed import compile_together
from vswin_jax.runtime.progress import Progress

log = logging.getLogger(__name__)

Batch = Mapping[str, np.ndarray]
EvalStep = Callable[[Any, Mapping[str, jax.Array]], Mapping[str, jax.Array]]


def evaluate(
    eval_step: EvalStep,
    params: Any,
    batches: Iterable[Batch],
    *,
    num_examples: int,
    place: Callable[[Batch], Mapping[str, jax.Array]],
) -> AnyEvaluation:
    """Runs every batch and returns the evaluation of all `num_examples` videos, on every host.

    `eval_step` is made by `jax.jit`. `batches` follow the batch contract (padded rows have mask 0),
    as many on every host; `place` puts one on the devices. The results of a batch are read while
    the next one runs.

    Raises:
        Stopped: where signals wait for safe points (`signals.Watch.hold`), and one has come.
        RuntimeError: if the batches do not hold each of the ids 0 to num_examples - 1 once.
    """
    parts: list[dict[str, np.ndarray]] = []
    progress = Progress(num_examples, lambda line: log.info("evaluated %s", line), every=15.0)
    pending = None
    for number, batch in enumerate(batches):
        preemption.safe_point()
        placed = place(batch)
        if number == 0:
            preemption.abandonable(functools.partial(compile_together, eval_step, params, placed))
            preemption.safe_point()
        # Nothing comes back but what `_real_rows` asks for, a batch later.
        with jax.transfer_guard_device_to_host("disallow"):
            outputs = eval_step(params, placed)
        watchdog.alive()
        running = {**outputs, **{k: placed[k] for k in ("id", "label", "mask")}}
        if pending is not None:
            parts.append(_real_rows(pending))
            progress.add(len(parts[-1]["id"]))
        pending = running
    if pending is not None:
        parts.append(_real_rows(pending))
    return _assemble(parts, num_examples)


def _real_rows(outputs: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """The rows of all hosts whose mask is not 0, on this host."""
    rows = process_allgather(dict(outputs), tiled=True)
    real = rows.pop("mask") > 0
    return {name: values[real] for name, values in rows.items()}


def _assemble(parts: Sequence[Mapping[str, np.ndarray]], num_examples: int) -> AnyEvaluation:
    ids = np.concatenate([part["id"] for part in parts]) if parts else np.zeros(0, np.int32)
    order = np.argsort(ids, kind="stable")
    if not np.array_equal(ids[order], np.arange(num_examples)):
        raise RuntimeError(
            f"Evaluation must see each of {num_examples} videos once but saw {len(ids)} rows of "
            f"{len(np.unique(ids))} videos."
        )
    labels, probabilities, losses = (
        np.concatenate([part[name] for part in parts])[order]
        for name in ("label", "probabilities", "loss")
    )
    kind = Evaluation if labels.ndim == 1 else MultiLabelEvaluation
    return kind(labels, probabilities, losses)
