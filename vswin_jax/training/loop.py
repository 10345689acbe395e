"""The training loop, and the order in which it does things.

It needs a model and an iterator of batches; neither TensorFlow nor a particular config library.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from vswin_jax.checkpoint import Checkpoints
from vswin_jax.errors import InputError
from vswin_jax.reporting.goodput import Ledger
from vswin_jax.reporting.metric_writer import Telemetry, log_parameters
from vswin_jax.reporting.profiling import Profiler
from vswin_jax.runtime import disk_full, preemption, watchdog
from vswin_jax.runtime.compilation import Compilations
from vswin_jax.runtime.distributed import compile_together, wait_for_all
from vswin_jax.sharding.mesh import mesh_of, place_batch
from vswin_jax.training import metrics
from vswin_jax.training.durations import Plan
from vswin_jax.training.setup import TrainingSetup
from vswin_jax.training.state import TrainState, inference_params
from vswin_jax.training.steps import BATCH_KEYS
from vswin_jax.training.task import SINGLE_LABEL, Task

log = logging.getLogger(__name__)

Batches = Iterator[Mapping[str, np.ndarray]]
Evaluate = Callable[[Any], Mapping[str, float]]
Draw = Callable[[Mapping[str, jax.Array]], np.ndarray]

# In the metadata of a step: it was saved before its evaluation was done.
_OWES = "owes_evaluation"


@dataclass(frozen=True)
class Trained:
    """How a call of `train` ended.

    step: steps done in all; params: for inference, averaged where there is an average;
    was_finished: there was nothing left to do; stopped_by: the signal that asked it to end.
    """

    step: int
    total_steps: int
    params: Any
    was_finished: bool = False
    stopped_by: int | None = None


def train(
    config: Any,
    workdir: str | os.PathLike,
    make_batches: Callable[[int], Batches],
    *,
    model: nn.Module,
    num_examples: int,
    initial_params: Callable[[], Any] | None = None,
    evaluate: Evaluate | None = None,
    draw_first: Draw | None = None,
    metadata: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    task: Task = SINGLE_LABEL,
    profile: tuple[int, int] | None = None,
    begun: float | None = None,
) -> Trained:
    """Trains `model` in `workdir`, going on from its latest checkpoint if it has one.

    The order is a contract. Before the first step:

    1. the state is restored from the newest intact step in `workdir`/checkpoints, and damaged
       ones are put aside; or it is made from `initial_params()`, or from the seed;
    2. `make_batches(step)` is called once with the number of steps done; what it yields must be a
       function of that number alone, for ever.

    Then, for each step:

    3. the next batch is fetched (the time is counted as waiting) and what the step needs of it is
       placed on the devices; the very first one of a run is shown in TensorBoard as `draw_first`
       draws it;
    4. the step is dispatched; nobody waits for it;
    5. the metrics of the step BEFORE are read while this one runs; they are reported every
       `log_every`, and too many steps in a row without finite gradients end the run;
    6. every `eval_every`, and after the last step, this step's metrics are read too, and then
       `evaluate(params)` is called, whose `task.score` ("top1", or "mAP" of sets of labels) is the
       checkpoint's score;
    7. every `checkpoint_every`, after every evaluation, after the last step, and on SIGTERM or
       Ctrl-C, this step's metrics are read and the state is saved, in the background; a save that
       fails ends the run after the step in flight.

    A signal stops all processes after the same step; before the first one is done it raises
    `signals.Stopped`. An evaluation that it interrupts is made up for when the run goes on, before
    anything else.

    So a run that is killed at any moment and started again gives the same losses, bit for bit, as
    one that was not.

    Args:
        config: any object with the attributes `seed` and `train`, `optim`, `loss`, `mesh` with
            those of `vswin_jax.config.base_config`.
        num_examples: the length of an epoch in clips.
        draw_first: from a placed batch, with all its keys, to a picture uint8 [H, W, 3]; every
            process calls it, and it must leave the batch as it is.
        metadata: JSON-like; kept in every checkpoint (config and label names, for `predict`).
        task: one class a video, or `MULTI_LABEL`, sets of classes, which batches and `evaluate`
            must be made for too.
        profile: the first and the last step to trace, counted from 1 where this call begins.
        begun: when this start began, by `time.monotonic`, for the ledger of its time.

    Raises:
        InputError: a wrong setting, a checkpoint of another model, only damaged checkpoints, a
            run that diverged, a full disk.
    """
    mesh = mesh or mesh_of(config)
    plan = Plan.of(config, num_examples)
    setup = TrainingSetup.of(config, plan, model, mesh, task)
    directory = Path(workdir) / "checkpoints"
    begun = time.monotonic() if begun is None else begun
    with preemption.watching() as watch:
        with (
            Compilations() as compilations,
            watchdog.of_run(60 * config.train.hang_after) as dog,
            Checkpoints(directory, keep=config.train.keep) as checkpoints,
            disk_full.explained(workdir, checkpoints.after_this),
        ):
            ledger = Ledger(begun=begun, compiled=lambda: compilations.seconds)
            state, start, owes = _restore_or_create(setup, checkpoints, config.seed, initial_params)
            owes = owes and evaluate is not None
            if start >= plan.total_steps and not owes:
                return Trained(start, plan.total_steps, inference_params(state), was_finished=True)
            with (
                Telemetry(
                    workdir,
                    batch_size=config.train.batch_size,
                    total_steps=plan.total_steps,
                    start_step=start,
                    evaluates_first=owes,
                    ledger=ledger,
                    dog=dog,
                ) as telemetry,
                Profiler(Path(workdir), profile) as profiler,
                watch.hold(),
            ):
                loop = _Loop(
                    *(plan, setup, checkpoints, telemetry, profiler),
                    *(evaluate, draw_first, metadata or {}, watch),
                )
                if owes:
                    loop.make_up_for_evaluation(state, start)
                state, step = loop.run(state, start, make_batches)
                with telemetry.during("save"):
                    checkpoints.wait()
        # Whoever ends now takes nothing along that another one still saves.
        wait_for_all("all is saved")
        stopped_by = watch.number
    params, was_finished = inference_params(state), start >= plan.total_steps
    return Trained(step, plan.total_steps, params, was_finished, stopped_by)


def _restore_or_create(
    setup: TrainingSetup,
    checkpoints: Checkpoints,
    seed: int,
    initial_params: Callable[[], Any] | None,
) -> tuple[TrainState, int, bool]:
    """The state, its step, and whether the evaluation of that step is still to come."""
    restored = checkpoints.restore_latest(setup.target)
    if restored is None:
        state = setup.fresh_state(seed, initial_params)
        log_parameters(state.params)
        return state, 0, False
    state, metadata = restored
    step = int(state.step)
    log.info("going on after step %d", step)
    log_parameters(state.params)
    return state, step, metadata.get(_OWES, False) and not checkpoints.has_score(step)


class _Loop:
    """Steps 3 to 7 of the contract."""

    def __init__(
        self,
        plan: Plan,
        setup: TrainingSetup,
        checkpoints: Checkpoints,
        telemetry: Telemetry,
        profiler: Profiler,
        evaluate: Evaluate | None,
        draw_first: Draw | None,
        metadata: Mapping[str, Any],
        watch: preemption.Watch,
    ) -> None:
        self._plan, self._setup, self._checkpoints = plan, setup, checkpoints
        self._telemetry, self._evaluate, self._metadata = telemetry, evaluate, metadata
        self._profiler = profiler
        self._draw_first, self._watch = draw_first, watch
        self._unread: tuple[int, Mapping[str, jax.Array]] | None = None

    def make_up_for_evaluation(self, state: TrainState, step: int) -> None:
        """Evaluates the restored state of `step`, of which a signal has kept the run before."""
        with self._telemetry.during("evaluation"):
            scores = self._evaluation(state, step)
            if scores is not None and self._setup.score in scores:
                self._checkpoints.add_score(step, scores[self._setup.score])

    def run(
        self, state: TrainState, start: int, make_batches: Callable[[int], Batches]
    ) -> tuple[TrainState, int]:
        """Steps from `start` to the end or a signal; the last state and its step."""
        step = start
        batches = make_batches(start) if start < self._plan.total_steps else iter(())
        while step < self._plan.total_steps:
            if self._watch.reached():
                if step > start:
                    self._read_metrics()
                    self._save(state, step, {})
                break
            with self._profiler.step(step + 1):
                state, step_metrics = self._step(state, batches, step, is_first=step == start)
            self._profiler.finish(step_metrics)
            step += 1
            self._unread = (step, step_metrics)
            self._telemetry.step = step
            # A save that has failed ends the run now, not at the next one.
            self._checkpoints.check()
            self._evaluate_and_save(state, step)
        return state, step

    def _step(
        self, state: TrainState, batches: Batches, step: int, is_first: bool
    ) -> tuple[TrainState, Mapping[str, jax.Array]]:
        # Only what is asked for by name may come back from the device: a stray float(array)
        # would make every step wait. Nor may anything go there but batches.
        with jax.transfer_guard_device_to_host("disallow"):
            batch = self._next_batch(batches, step)
            if is_first:
                self._telemetry.ideal_step_seconds = self._setup.ideal_step_seconds(batch)
            with (
                self._telemetry.during("compile" if is_first else "steps"),
                jax.transfer_guard_host_to_device("disallow"),
            ):
                if is_first:
                    compile_together(self._setup.train_step, state, batch)
                state, step_metrics = self._setup.train_step(state, batch)
            self._read_metrics()
        return state, step_metrics

    def _next_batch(self, batches: Batches, step: int) -> dict[str, jax.Array]:
        with self._telemetry.during("data"):
            batch = next(batches, None)
        if batch is None:
            raise InputError(
                f"The training batches ended after step {step} of {self._plan.total_steps}: give "
                f"an iterator that does not end."
            )
        draws = step == 0 and self._draw_first is not None
        # What a row is of, its video, epoch, frames and crop, is for people, not for the step.
        names = batch if draws else BATCH_KEYS
        wanted = {name: batch[name] for name in names}
        placed = place_batch(wanted, self._setup.mesh, self._setup.window_over)
        if draws:
            with self._telemetry.during("other"):
                self._telemetry.picture("train/clips", step, self._draw_first(placed))
        return {name: placed[name] for name in BATCH_KEYS}

    def _read_metrics(self) -> None:
        if self._unread is None:
            return
        step, on_device = self._unread
        self._unread = None
        values = metrics.means(jax.device_get(on_device))
        if self._plan.is_due(step, self._plan.log_every):
            self._telemetry.train(step, values)
        bad_steps = int(values["skipped_in_a_row"])
        if bad_steps > self._plan.max_bad_steps:
            raise InputError(
                f"Training has diverged: the gradients of the last {bad_steps} steps, up to step "
                f"{step}, were not finite; lower optim.learning_rate, set optim.clip_norm or use "
                f"float32, and start again in an empty workdir."
            )

    def _evaluate_and_save(self, state: TrainState, step: int) -> None:
        plan = self._plan
        evaluates = self._evaluate is not None and plan.is_due(step, plan.eval_every)
        if not (evaluates or plan.is_due(step, plan.checkpoint_every)):
            return
        # A checkpoint must not be ahead of the metrics: they would be missing after a restart.
        self._read_metrics()
        if evaluates:
            with self._telemetry.during("evaluation"):
                scores = self._evaluation(state, step)
        else:
            scores = {}
        self._save(state, step, scores)

    def _evaluation(self, state: TrainState, step: int) -> Mapping[str, float] | None:
        """The reported scores; None if a signal has interrupted the evaluation."""
        assert self._evaluate is not None
        try:
            scores = self._evaluate(inference_params(state))
        except preemption.Stopped as stopped:
            if not self._watch.is_held:
                raise
            log.info("the evaluation at step %d is %s: it is made up for later", step, stopped)
            return None
        self._telemetry.evaluation(step, scores)
        return scores

    def _save(self, state: TrainState, step: int, scores: Mapping[str, float] | None) -> None:
        metadata = {**self._metadata, "scores": dict(scores or {}), _OWES: scores is None}
        with self._telemetry.during("save"):
            self._checkpoints.save(step, state, metadata, (scores or {}).get(self._setup.score))
        self._telemetry.saved(step)
