"""Exact evaluation: every video of a set once, for any batch size and number of devices.

The step averages the views of each video (`Task.average_views`). The loop gathers the rows of all
hosts, drops the padding and checks that the remaining rows are the whole set, but for the videos
that cannot be read, which are counted. All hosts have the same rows, so they omit the same videos
and stop together if there are too many of them.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jaxtyping import PyTree

from vswin_jax.errors import InputError
from vswin_jax.evaluation.results import AnyEvaluation, Evaluation, MultiLabelEvaluation
from vswin_jax.runtime import preemption, watchdog
from vswin_jax.runtime.bad_fraction import exceeds_limit
from vswin_jax.runtime.distributed import compile_together
from vswin_jax.runtime.progress import Progress
from vswin_jax.training.step_inputs import Batch
from vswin_jax.training.steps import EvalStep

log = logging.getLogger(__name__)

# Seconds between two progress lines in the log.
_LOG_INTERVAL = 15.0
# Longer reasons are cut: hosts exchange them as arrays of this length.
_REASON_BYTES = 400


@dataclass(frozen=True)
class Omissions:
    """The videos that this host could not read, and how many of a set may be left out.

    Attributes:
      reasons: why a video cannot be read, by its index; filled while batches are made.
      max_fraction: as `config.data.max_bad_fraction`.
    """

    reasons: Mapping[int, str]
    max_fraction: float

    def check(self, ids: Sequence[int], num_examples: int) -> None:
        """Compare the number of omitted videos with the limit; all hosts call it with equal `ids`.

        Raises:
          InputError: too many are omitted, or all.
        """
        if len(ids) == num_examples:
            reason = self.gather(ids)[ids[0]]
            raise InputError(f"None of the {num_examples} held-out videos can be read: {reason}")
        if ids and exceeds_limit(len(ids), num_examples, self.max_fraction):
            raise InputError(
                f"At least {len(ids)} of the {num_examples} held-out videos cannot be read, more "
                f"than config.data.max_bad_fraction ({self.max_fraction:g}) allows: find them all "
                f"with scripts/check_videos.py and repair them, or raise the limit; the last error "
                f"was: {self.gather(ids)[ids[-1]]}"
            )

    def gather(self, ids: Sequence[int]) -> dict[int, str]:
        """Return the reasons of all hosts for the videos `ids`; each host has those it has read."""
        texts = [self.reasons.get(index, "").encode()[:_REASON_BYTES] for index in ids]
        if jax.process_count() > 1 and ids:
            local = np.stack(
                [np.frombuffer(t.ljust(_REASON_BYTES, b"\0"), np.uint8) for t in texts]
            )
            texts = [row.tobytes() for row in process_allgather(local).max(axis=0)]
        reasons = (text.rstrip(b"\0").decode(errors="replace") for text in texts)
        return dict(zip(ids, reasons, strict=True))


def evaluate(
    eval_step: EvalStep,
    params: PyTree,
    batches: Iterable[Batch],
    *,
    num_examples: int,
    place: Callable[[Batch], Batch],
    omissions: Omissions | None = None,
) -> AnyEvaluation:
    """Run every batch and return the evaluation of all `num_examples` videos, on every host.

    `eval_step` is made by `jax.jit`. Every host has the same number of `batches`, whose padded rows
    have mask 0; `place` puts a batch on the devices. The results of a batch are read while the next
    batch runs. A padded row with an id stands for a video that cannot be read, which is left out;
    `omissions` has the reasons and the limit.

    Raises:
      StopRequested: a signal arrived while signals are deferred (`SignalWatcher.defer_signals`).
      InputError: too many videos cannot be read, or none can.
      RuntimeError: the batches do not hold each of the ids 0 to num_examples - 1 once.
    """
    omissions = omissions or Omissions({}, 0.0)
    omitted: list[int] = []
    parts: list[dict[str, np.ndarray]] = []
    for rows in _evaluated_rows(eval_step, params, batches, num_examples, place):
        is_real = rows.pop("mask") > 0
        omitted += rows["id"][~is_real & (rows["id"] >= 0)].tolist()
        omissions.check(omitted, num_examples)
        parts.append({name: values[is_real] for name, values in rows.items()})
    return _assemble(parts, num_examples, omissions.gather(sorted(omitted)))


def _evaluated_rows(
    eval_step: EvalStep,
    params: PyTree,
    batches: Iterable[Batch],
    num_examples: int,
    place: Callable[[Batch], Batch],
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the rows of all hosts of each batch while the next batch runs on the devices."""
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
        # Results are fetched in `_gather_rows` alone, a batch later: a stray float(array) here
        # would make every batch wait for the device.
        with jax.transfer_guard_device_to_host("disallow"):
            outputs = eval_step(params, placed)
        watchdog.heartbeat()
        running = {**outputs, **{name: placed[name] for name in ("id", "label", "mask")}}
        if pending is not None:
            rows = _gather_rows(pending)
            progress.add(int((rows["id"] >= 0).sum()))
            yield rows
        pending = running
    if pending is not None:
        yield _gather_rows(pending)


def _gather_rows(outputs: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    return process_allgather(dict(outputs), tiled=True)


def _assemble(
    parts: Sequence[Mapping[str, np.ndarray]], num_examples: int, omitted: Mapping[int, str]
) -> AnyEvaluation:
    """Concatenate the rows in the order of the set, after checking that they are the whole set."""
    ids = np.concatenate([part["id"] for part in parts]) if parts else np.zeros(0, np.int32)
    order = np.argsort(ids, kind="stable")
    if not np.array_equal(np.sort([*ids, *omitted]), np.arange(num_examples)):
        raise RuntimeError(
            f"Expected each of {num_examples} videos once in the evaluation, but got {len(ids)} "
            f"rows of {len(np.unique(ids))} videos and {len(omitted)} omitted ones."
        )
    labels, probabilities, losses = (
        np.concatenate([part[name] for part in parts])[order]
        for name in ("label", "probabilities", "loss")
    )
    kind = Evaluation if labels.ndim == 1 else MultiLabelEvaluation
    return kind(labels=labels, probabilities=probabilities, losses=losses, omitted=omitted)
