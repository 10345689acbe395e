"""Training: restores, steps, evaluates and saves, in an order that is a contract.

Before the first step:

1. the state is restored from the newest intact step in `workdir`/checkpoints, and damaged steps are
   quarantined; without a checkpoint it is made from `initial_params()`, or else from the seed;
2. `make_batches(step)` is called once with the number of completed steps; the batches that it
   yields must be a function of that number alone.

Then, for each step:

3. the next batch is fetched (the time counts as waiting for data) and the arrays that the step
   needs are placed on the devices;
4. the step is dispatched, and nothing waits for its result;
5. the metrics of the PREVIOUS step are read while this one runs; they are written every
   `log_every`, and too many consecutive steps with non-finite gradients end the run; after those of
   the first step, the first batch of a run is shown in TensorBoard as `draw_first` draws it;
6. every `checkpoint_every`, before every evaluation, after the last step, and on SIGTERM or Ctrl-C,
   this step's metrics are read and the state is saved in the background; a save that fails ends the
   run after the step in flight;
7. every `eval_every`, and after the last step, `evaluate(params)` is called, and its `task.score`
   ("top1", or "mAP" of multi-label data) is added to the checkpoint.

A signal stops all processes after the same step; before the first step is complete it raises
`preemption.StopRequested`. An evaluation that a signal interrupts, or that fails, runs when
training resumes, before the next step. A run that is killed at any moment and started again
therefore gives the same losses, bit for bit, as a run that was never stopped.

Training needs a model and an iterator of batches, but neither TensorFlow nor a particular config
library: `config` is any object with the attributes `seed`, `train`, `optim`, `loss` and `mesh` of
`vswin_jax.config.base_config`. `num_examples` is the length of an epoch in clips. `metadata` is
JSON-like and kept in every checkpoint (config and label names, for `predict`). Batches and
`evaluate` must be made for the same `task`; `quick_views` describes for the log what it sees of a
video. `profile` are the first and the last step to trace, counted from 1 where this call begins.
`begun` is the time (by `time.monotonic`) from which the goodput record counts; the default is the
time of this call.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import linen as nn
from jax.sharding import Mesh

from vswin_jax.checkpoint import Checkpoints
from vswin_jax.reporting.goodput import GoodputRecorder
from vswin_jax.reporting.metric_writer import MetricWriter, log_parameters
from vswin_jax.reporting.profiling import Profiler
from vswin_jax.runtime import disk_full, preemption, watchdog
from vswin_jax.runtime.compilation import Compilations
from vswin_jax.runtime.distributed import wait_for_all
from vswin_jax.runtime.workdir_lock import lock_workdir
from vswin_jax.training.loop import (
    PENDING_EVALUATION,
    Batches,
    Draw,
    Evaluate,
    StartState,
    TrainingLoop,
)
from vswin_jax.training.setup import TrainingSetup
from vswin_jax.training.state import inference_params
from vswin_jax.training.task import SINGLE_LABEL, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a call of `train`.

    `step` counts completed steps, those of earlier starts included. `params` are for inference: the
    moving average if there is one. `was_finished` is True if no step was left to do. `stopped_by`
    is the number of the signal that ended the run early, or None.
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
    quick_views: str = "",
    draw_first: Draw | None = None,
    metadata: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    task: Task = SINGLE_LABEL,
    profile: tuple[int, int] | None = None,
    begun: float | None = None,
) -> TrainResult:
    """Train `model` in `workdir`, resuming from its latest checkpoint; see the module's docstring.

    Raises:
      InputError: a wrong setting or checkpoint, another run in `workdir`, divergence, a full disk.
    """
    begun = time.monotonic() if begun is None else begun
    setup = TrainingSetup.from_config(config, num_examples, model=model, mesh=mesh, task=task)
    total_steps, directory = setup.durations.total_steps, Path(workdir) / "checkpoints"
    with lock_workdir(workdir), preemption.handle_signals() as watch:
        with (
            Compilations() as compilations,
            watchdog.create_watchdog(60 * config.train.hang_after) as hang_watchdog,
            Checkpoints(directory, max_to_keep=config.train.max_to_keep) as checkpoints,
            disk_full.reraise_disk_full(workdir, checkpoints.resume_hint),
        ):
            record = GoodputRecorder(start_time=begun, compile_seconds=lambda: compilations.seconds)
            start = _restore_or_create(setup, checkpoints, config.seed, initial_params, evaluate)
            if start.step >= total_steps and not start.evaluates:
                params = inference_params(start.state)
                return TrainResult(start.step, total_steps, params, was_finished=True)
            writer = _open_writer(config, workdir, setup, start, quick_views, record, hang_watchdog)
            with writer, Profiler(Path(workdir), profile) as profiler, watch.defer_signals():
                loop = TrainingLoop(
                    setup=setup,
                    checkpoints=checkpoints,
                    writer=writer,
                    profiler=profiler,
                    watch=watch,
                    evaluate=evaluate,
                    draw_first=draw_first,
                    metadata=metadata or {},
                )
                state, step = loop.run(start, make_batches)
        # Wait, since the coordination service must not end while another process still saves.
        wait_for_all("all is saved")
        stopped_by = watch.number
    return TrainResult(
        step=step,
        total_steps=total_steps,
        params=inference_params(state),
        was_finished=start.step >= total_steps,
        stopped_by=stopped_by,
    )


def _open_writer(
    config: Any,
    workdir: str | os.PathLike,
    setup: TrainingSetup,
    start: StartState,
    quick_views: str,
    goodput: GoodputRecorder,
    hang_watchdog: watchdog.Watchdog,
) -> MetricWriter:
    return MetricWriter(
        workdir,
        batch_size=config.train.batch_size,
        total_steps=setup.durations.total_steps,
        start_step=start.step,
        pending_evaluation=start.evaluates,
        quick_views=quick_views,
        goodput=goodput,
        watchdog=hang_watchdog,
    )


def _restore_or_create(
    setup: TrainingSetup,
    checkpoints: Checkpoints,
    seed: int,
    initial_params: Callable[[], Any] | None,
    evaluate: Evaluate | None,
) -> StartState:
    restored = checkpoints.restore_latest(setup.target)
    if restored is None:
        params = initial_params() if initial_params else None
        log_parameters(setup.target.params)
        return StartState(None, step=0, begin=lambda: setup.begin_state(seed, params))
    state, metadata = restored
    step = int(state.step)
    log.info("resuming after step %d", step)
    log_parameters(state.params)
    pending = metadata.get(PENDING_EVALUATION, False) and not checkpoints.has_score(step)
    return StartState(state, step, evaluates=pending and evaluate is not None)
