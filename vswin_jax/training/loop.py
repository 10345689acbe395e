"""The steps of a training run: batches, metrics, evaluations and checkpoints, in their order."""

import logging
import math
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

# Metadata key of a step whose evaluation was still to come when it was saved; it is complete if the
# step has a score. Stored in checkpoints, so the key stays as it was first written.
PENDING_EVALUATION = "owes_evaluation"


class StartState(NamedTuple):
    """The state that training starts from, and the number of its completed steps.

    `state` is None for a new run, whose state `begin` begins to create; it returns a function that
    waits for it. `evaluates` is True if an earlier start was stopped before it had evaluated this
    state.
    """

    state: TrainState | None
    step: int
    evaluates: bool = False
    begin: Callable[[], Callable[[], TrainState]] | None = None


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
    # The first batch of a run as it came, and its arrays that are placed on the devices.
    undrawn: tuple[Mapping[str, np.ndarray], Mapping[str, jax.Array]] | None = None

    def run(
        self,
        start: StartState,
        make_batches: Callable[[int], Batches],
    ) -> tuple[TrainState, int]:
        """Train from `start` to the end or to a signal; return the last state and its step."""
        state, step = start.state, start.step
        if start.evaluates:
            self._evaluate_saved(state, step)
        total_steps = self.setup.durations.total_steps
        batches = make_batches(step) if step < total_steps else iter(())
        # While the first batch is read.
        created = start.begin() if start.begin else lambda: state
        while step < total_steps and not self.watch.reached_sync_point():
            with self.profiler.step(step + 1):
                if step == start.step:
                    state, step_metrics = self._first_step(created, batches, step)
                else:
                    state, step_metrics = self._step(state, batches, step)
            self.profiler.finish(step_metrics)
            step += 1
            self.unread = (step, step_metrics)
            self.writer.step = step
            # A save that has failed ends the run now, not at the next save.
            self.checkpoints.check_for_errors()
            self._evaluate_and_save(state, step)
        if start.step < step < total_steps:
            self._read_metrics()
            self._save(state, step, pending_evaluation=False)
        with self.writer.phase("save"):
            self.checkpoints.wait()
        return state, step

    def _evaluate_saved(self, state: TrainState, step: int) -> None:
        """Evaluate the state that is saved, and add the score to its checkpoint."""
        with self.writer.phase("evaluation"):
            scores = self._evaluation(state, step)
        if scores is not None:
            with self.writer.phase("save"):
                self.checkpoints.add_score(step, scores.get(self.setup.score, math.nan))

    def _first_step(
        self, created: Callable[[], TrainState], batches: Batches, step: int
    ) -> tuple[TrainState, Mapping[str, jax.Array]]:
        with jax.transfer_guard_device_to_host("disallow"):
            batch = self._next_batch(batches, step)
            self.writer.ideal_step_seconds = self.setup.ideal_step_seconds(batch)
            with (
                self.writer.phase("compile"),
                jax.transfer_guard_host_to_device("disallow"),
            ):
                # By the shapes alone, since the state may still be under way.
                compile_together(self.setup.train_step, self.setup.target, batch)
                return self.setup.train_step(created(), batch)

    def _step(
        self, state: TrainState, batches: Batches, step: int
    ) -> tuple[TrainState, Mapping[str, jax.Array]]:
        # The guards fail on implicit transfers: a stray float(array) would make every step wait for
        # the device, and only batches may be sent to it.
        with jax.transfer_guard_device_to_host("disallow"):
            batch = self._next_batch(batches, step)
            with (
                self.writer.phase("steps"),
                jax.transfer_guard_host_to_device("disallow"),
            ):
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
        placed = place_batch(
            {name: batch[name] for name in BATCH_KEYS}, self.setup.mesh, self.setup.window_over
        )
        if step == 0 and self.draw_first is not None:
            self.undrawn = (batch, placed)
        return placed

    def _draw(self) -> None:
        """Show the first batch of a run, now that the device has its first steps to work on."""
        if self.undrawn is None or self.draw_first is None:
            return
        batch, placed = self.undrawn
        self.undrawn = None
        # The provenance of each row (video, epoch, frames, crop) is for the picture alone.
        others = {name: values for name, values in batch.items() if name not in placed}
        others = place_batch(others, self.setup.mesh, self.setup.window_over)
        with self.writer.phase("other"):
            self.writer.write_image("train/clips", 0, self.draw_first({**placed, **others}))

    def _read_metrics(self) -> None:
        if self.unread is None:
            return
        step, on_device = self.unread
        self.unread = None
        values = metrics.means(jax.device_get(on_device))
        if self.setup.durations.is_logged(step):
            self.writer.write_train(step, values)
        else:
            self.writer.log_if_quiet(step, values)
        bad_steps = int(values["skipped_in_a_row"])
        if bad_steps > self.setup.durations.max_bad_steps:
            raise InputError(
                f"Training has diverged: the gradients of the last {bad_steps} steps, up to step "
                f"{step}, were not finite; lower config.optim.learning_rate, set "
                f"config.optim.clip_norm or use config.model.dtype=float32, and start again in an "
                f"empty workdir."
            )
        self._draw()

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
        # The state is saved first: an evaluation that fails, or that is killed, loses no step.
        self._save(state, step, pending_evaluation=evaluates)
        if evaluates:
            self._evaluate_saved(state, step)

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

    def _save(self, state: TrainState, step: int, *, pending_evaluation: bool) -> None:
        metadata = {**self.metadata, PENDING_EVALUATION: pending_evaluation}
        with self.writer.phase("save"):
            self.checkpoints.save(step, state, metadata)
        self.writer.mark_saved(step)
