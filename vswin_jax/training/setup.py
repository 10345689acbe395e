"""What a training run has compiled and laid out before its first step."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from vswin_jax.models import SwinTransformer3D, flops, init_params, split_clips
from vswin_jax.sharding.mesh import Rules, default_rules
from vswin_jax.training import offload
from vswin_jax.training.durations import Plan
from vswin_jax.training.optimizer import make_optimizer
from vswin_jax.training.schedules import make_schedule
from vswin_jax.training.state import TrainState, abstract_state, create_state
from vswin_jax.training.steps import TrainStep, make_train_step
from vswin_jax.training.task import SINGLE_LABEL, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSetup:
    """What is compiled and laid out once, whatever step the run is at."""

    model: nn.Module
    optimizer: Any
    mesh: Mesh
    rules: Rules
    window_over: str
    has_ema: bool
    target: TrainState
    train_step: TrainStep
    score: str
    offloads: bool

    @classmethod
    def of(
        cls, config: Any, plan: Plan, model: nn.Module, mesh: Mesh, task: Task
    ) -> "TrainingSetup":
        """Everything that `config` decides, without allocating any array."""
        over = config.mesh.window_over
        model = split_clips(model, mesh, over)
        shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
        rules = default_rules(mesh, shapes)
        schedule = make_schedule(
            config.optim.schedule,
            total_steps=plan.total_steps,
            steps_per_epoch=plan.steps_per_epoch,
            warmup_steps=plan.warmup_steps,
            warmup_ratio=config.optim.warmup_ratio,
        )
        optimizer = make_optimizer(
            config.optim,
            schedule,
            shapes,
            model.frozen_stages,
            moment_dtype=config.optim.moment_dtype,
            offloaded=config.optim.offload,
        )
        has_ema = config.train.ema_decay > 0
        target = abstract_state(model, optimizer, mesh, rules, ema=has_ema)
        if config.optim.offload:
            offload.check_supported(mesh.devices.flat)
            target = offload.moments_to_host(target)
        train_step = make_train_step(
            model,
            optimizer,
            seed=config.seed,
            num_classes=model.num_classes,
            label_smoothing=config.loss.label_smoothing,
            mixup_alpha=config.loss.mixup_alpha,
            cutmix_alpha=config.loss.cutmix_alpha,
            erasing=config.loss.erasing,
            ema_decay=config.train.ema_decay,
            accumulate=config.train.accumulate,
            state_shardings=jax.tree.map(lambda leaf: leaf.sharding, target),
            mesh=mesh,
            task=task,
            autotune=config.train.autotune,
        )
        fixed = (model, optimizer, mesh, rules, over, has_ema, target, train_step, task.score)
        return cls(*fixed, config.optim.offload)

    def fresh_state(self, seed: int, initial_params: Callable[[], Any] | None) -> TrainState:
        """The state before the first step, laid out, from `initial_params()` or from the seed."""
        params = initial_params() if initial_params else None
        state = create_state(
            self.model,
            self.optimizer,
            jax.random.key(seed),
            self.mesh,
            self.rules,
            params,
            ema=self.has_ema,
        )
        return offload.moments_to_host(state) if self.offloads else state

    def ideal_step_seconds(self, batch: Mapping[str, jax.Array]) -> float | None:
        """What a step on `batch` would take at the devices' peak; None where that is not known."""
        if not isinstance(self.model, SwinTransformer3D):
            return None
        rows, _, *clip, _ = batch["video"].shape
        devices = self.mesh.devices.flatten().tolist()
        ideal = flops.ideal_step_seconds(self.model, tuple(clip), rows, devices)
        if ideal is None and jax.process_index() == 0:
            log.info("MFU is not shown: the peak of a '%s' is not known", devices[0].device_kind)
        return ideal


def abstract_training(
    config: Any, *, model: nn.Module, num_examples: int, mesh: Mesh, task: Task = SINGLE_LABEL
) -> tuple[TrainStep, TrainState]:
    """The step that `train` would run, and the shapes and layout of its state; none is allocated.

    The devices of `mesh` may be those of a topology, which cannot run anything.
    """
    setup = TrainingSetup.of(config, Plan.of(config, num_examples), model, mesh, task)
    return setup.train_step, setup.target
