"""The steps of a training run: batches, metrics, evaluations and checkpoints, in their order."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from vswin_jax.checkpoint import Checkpoints
from vswin_jax.errors import InputError
from vswin_jax.reporting.metric_writer import MetricWriter
from vswin_jax.reporting.profiling import Profiler
from vswin_jax.runtime import preemption
from vswin_jax.runtime.distributed import compile_together
from vswin_jax.sharding.mesh import place_batch
from vswin_jax.training import metrics
from vswin_jax.training.setup import TrainingSetup
from vswin_jax.training.state import TrainState, inference_params
from vswin_jax.training.steps import BATCH_KEYS

log = logging.getLogger(__name__)

Batches = Iterator[Mapping[str, np.ndarray]]
# From parameters to scores, of which one has the name `task.score`.
Evaluate = Callable[[Any], Mapping[str, float]]
# From a placed batch, which must not be modified, to a picture uint8 [H, W, 3]; called by every
# process.
Draw = Callable[[Mapping[str, jax.Array]], np.ndarray]

# Metadata key of a step that was saved before its evaluation was complete; stored in checkpoints,
# so the key stays as it was first written.
PENDING_EVALUATION = "owes_evaluation"


class StartState(NamedTuple):
    """The state that training starts from, and the number of its completed steps.

    `evaluates` is True if an earlier start was stopped before it had evaluated this state.
    """

    state: TrainState
    step: int
    evaluates: bool


@dataclass
class TrainingLoop:
    """Runs steps 3 to 7 of the order of operations in the docstring of `training/train.py`."""

    setup: TrainingSetup
    checkpoints: Checkpoints
    writer: MetricWriter
    profiler: Profiler
    watch: preemption.SignalWatcher
    evaluate: Evaluate | None
    draw_first: Draw | None
    metadata: Mapping[str, Any]
    # A step and its metrics, which are still on the device.
    unread: tuple[int, Mapping[str, jax.Array]] | None = None

    def run(
        self,
        start: StartState,
        make_batches: Callable[[int], Batches],
    ) -> tuple[TrainState, int]:
        """Train from `start` to the end or to a signal; return the last state and its step."""
        state, step = start.state, start.step
        if start.evaluates:
            self._run_pending_evaluation(state, step)
        total_steps = self.setup.durations.total_steps
        batches = make_batches(step) if step < total_steps else iter(())
        while step < total_steps and not self.watch.reached_sync_point():
            with self.profiler.step(step + 1):
                state, step_metrics = self._step(state, batches, step, is_first=step == start.step)
            self.profiler.finish(step_metrics)
            step += 1
            self.unread = (step, step_metrics)
            self.writer.step = step
            # A save that has failed ends the run now, not at the next save.
            self.checkpoints.check_for_errors()
            self._evaluate_and_save(state, step)
        if start.step < step < total_steps:
            self._read_metrics()
            self._save(state, step, {})
        with self.writer.phase("save"):
            self.checkpoints.wait()
        return state, step

    def _run_pending_evaluation(self, state: TrainState, step: int) -> None:
        """Evaluate the restored state, whose evaluation a signal has interrupted."""
        with self.writer.phase("evaluation"):
            scores = self._evaluation(state, step)
            if scores is not None and self.setup.score in scores:
                self.checkpoints.add_score(step, scores[self.setup.score])

    def _step(
        self, state: TrainState, batches: Batches, step: int, is_first: bool
    ) -> tuple[TrainState, Mapping[str, jax.Array]]:
        # The guards fail on implicit transfers: a stray float(array) would make every step wait for
        # the device, and only batches may be sent to it.
        with jax.transfer_guard_device_to_host("disallow"):
            batch = self._next_batch(batches, step)
            if is_first:
                self.writer.ideal_step_seconds = self.setup.ideal_step_seconds(batch)
            with (
                self.writer.phase("compile" if is_first else "steps"),
                jax.transfer_guard_host_to_device("disallow"),
            ):
                if is_first:
                    compile_together(self.setup.train_step, state, batch)
                state, step_metrics = self.setup.train_step(state, batch)
            self._read_metrics()
        return state, step_metrics

    def _next_batch(self, batches: Batches, step: int) -> dict[str, jax.Array]:
        with self.writer.phase("data"):
            batch = next(batches, None)
        if batch is None:
            raise InputError(
                f"Expected {self.setup.durations.total_steps} training batches but the iterator "
                f"ended after step {step}: give one that does not end."
            )
        draws = step == 0 and self.draw_first is not None
        # The provenance of each row (video, epoch, frames, crop) is for the picture alone.
        names = batch if draws else BATCH_KEYS
        placed = place_batch(
            {name: batch[name] for name in names}, self.setup.mesh, self.setup.window_over
        )
        if draws:
            with self.writer.phase("other"):
                self.writer.write_image("train/clips", step, self.draw_first(placed))
        return {name: placed[name] for name in BATCH_KEYS}

    def _read_metrics(self) -> None:
        if self.unread is None:
            return
        step, on_device = self.unread
        self.unread = None
        values = metrics.means(jax.device_get(on_device))
        if self.setup.durations.is_due(step, self.setup.durations.log_every):
            self.writer.write_train(step, values)
        bad_steps = int(values["skipped_in_a_row"])
        if bad_steps > self.setup.durations.max_bad_steps:
            raise InputError(
                f"Training has diverged: the gradients of the last {bad_steps} steps, up to step "
                f"{step}, were not finite; lower optim.learning_rate, set optim.clip_norm or use "
                f"float32, and start again in an empty workdir."
            )

    def _evaluate_and_save(self, state: TrainState, step: int) -> None:
        evaluates = self.evaluate is not None and self.setup.durations.is_due(
            step, self.setup.durations.eval_every
        )
        if not (
            evaluates or self.setup.durations.is_due(step, self.setup.durations.checkpoint_every)
        ):
            return
        # Metrics are written first: a run that resumes from this checkpoint would not write them.
        self._read_metrics()
        if evaluates:
            with self.writer.phase("evaluation"):
                scores = self._evaluation(state, step)
        else:
            scores = {}
        self._save(state, step, scores)

    def _evaluation(self, state: TrainState, step: int) -> Mapping[str, float] | None:
        """Write and return the scores; return None if a signal has interrupted the evaluation."""
        assert self.evaluate is not None
        try:
            scores = self.evaluate(inference_params(state))
        except preemption.StopRequested as stopped:
            if not self.watch.is_deferring:
                raise
            log.info(
                "the evaluation at step %d was %s: it will run when training resumes", step, stopped
            )
            return None
        self.writer.write_evaluation(step, scores)
        return scores

    def _save(self, state: TrainState, step: int, scores: Mapping[str, float] | None) -> None:
        metadata = {
            **self.metadata,
            "scores": dict(scores or {}),
            PENDING_EVALUATION: scores is None,
        }
        with self.writer.phase("save"):
            self.checkpoints.save(step, state, metadata, (scores or {}).get(self.setup.score))
        self.writer.mark_saved(step)
