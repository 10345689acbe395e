"""Setup of a training run: model, optimizer, state layout and compiled step, built once."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from vswin_jax.errors import rename_arguments
from vswin_jax.models import SwinTransformer3D, flops, split_clips
from vswin_jax.sharding.mesh import Rules, default_rules, mesh_from_config
from vswin_jax.training import offload
from vswin_jax.training.batch_registry import BatchSteps, build_batch_augmentations
from vswin_jax.training.durations import TrainingDurations
from vswin_jax.training.optimizer import make_optimizer
from vswin_jax.training.schedules import make_schedule
from vswin_jax.training.state import (
    Initializer,
    TrainState,
    abstract_state,
    begin_state,
    make_initializer,
)
from vswin_jax.training.steps import TrainStep, make_train_step
from vswin_jax.training.task import SINGLE_LABEL, Task

log = logging.getLogger(__name__)

_SCHEDULE = {"schedule": "config.optim.schedule", "total_steps": "config.train.duration"}


@dataclass(frozen=True)
class TrainingSetup:
    """Model, optimizer, shardings and compiled step of a run, built once at its start.

    `target` holds the shapes and shardings of the state, without its arrays; `initial` is the same
    before moments are moved to host memory. `initialize` is that of `create_state`.
    `score` is the name of the evaluation metric that ranks checkpoints.
    """

    durations: TrainingDurations
    model: nn.Module
    optimizer: optax.GradientTransformation
    mesh: Mesh
    rules: Rules
    window_over: str
    initialize: Initializer
    initial: TrainState
    target: TrainState
    train_step: TrainStep
    score: str
    offloads: bool

    @classmethod
    def from_config(
        cls,
        config: Any,
        num_examples: int,
        *,
        model: nn.Module,
        mesh: Mesh | None = None,
        task: Task = SINGLE_LABEL,
    ) -> "TrainingSetup":
        """Build what `config` describes without allocating an array.

        The devices of `mesh` may be those of a topology, which cannot run anything. If `mesh` is
        None, it is built from the config and the devices of this machine.
        """
        mesh = mesh or mesh_from_config(config)
        durations = TrainingDurations.from_config(config, num_examples)
        model = split_clips(model, mesh, config.mesh.window_over)
        initialize = make_initializer(model, mesh)
        shapes = jax.eval_shape(initialize, jax.random.key(0))
        rules = default_rules(mesh, shapes)
        optimizer = _optimizer_from_config(config, durations, shapes, model.frozen_stages)
        ema = config.train.ema_decay > 0
        target = initial = abstract_state(initialize, optimizer, mesh, rules, ema=ema)
        if config.optim.offload:
            offload.check_supported(mesh.devices.flat)
            target = offload.moments_to_host(target)
        return cls(
            durations=durations,
            model=model,
            optimizer=optimizer,
            mesh=mesh,
            rules=rules,
            window_over=config.mesh.window_over,
            initialize=initialize,
            initial=initial,
            target=target,
            train_step=_train_step_from_config(config, model, optimizer, target, mesh, task),
            score=task.score,
            offloads=config.optim.offload,
        )

    def begin_state(self, seed: int, params: Any) -> Callable[[], TrainState]:
        """Begin to create the sharded state before the first step, from `params` or the seed.

        Returns a function that waits for it; see `state.begin_state`.
        """
        key = jax.random.key(seed)
        created = begin_state(self.initial, self.initialize, self.optimizer, key, params)
        if self.offloads:
            return lambda: offload.moments_to_host(created.result())
        return created.result

    def ideal_step_seconds(self, batch: Mapping[str, jax.Array]) -> float | None:
        """Return the seconds of a step on `batch` at the devices' peak FLOP/s; None if unknown."""
        if not isinstance(self.model, SwinTransformer3D):
            return None
        rows, _, *clip, _ = batch["video"].shape
        devices = self.mesh.devices.flatten().tolist()
        ideal = flops.ideal_step_seconds(self.model, tuple(clip), rows, devices)
        if ideal is None and jax.process_index() == 0:
            log.info("MFU is not shown: the peak of a '%s' is not known", devices[0].device_kind)
        return ideal


def _optimizer_from_config(
    config: Any, durations: TrainingDurations, shapes: Any, frozen_stages: int
) -> optax.GradientTransformation:
    with rename_arguments(_SCHEDULE):
        schedule = make_schedule(
            config.optim.schedule,
            total_steps=durations.total_steps,
            steps_per_epoch=durations.steps_per_epoch,
            warmup_steps=durations.warmup_steps,
            warmup_ratio=config.optim.warmup_ratio,
        )
    return make_optimizer(
        config.optim,
        schedule,
        shapes,
        frozen_stages,
        moment_dtype=config.optim.moment_dtype,
        offloaded=config.optim.offload,
    )


def _batch_augmentations_from_config(config: Any) -> BatchSteps:
    # A program that trains on data of its own need not have a config of data.
    data = getattr(config, "data", None)
    return build_batch_augmentations(getattr(data, "batch_augmentations", ()))


def _train_step_from_config(
    config: Any,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    target: TrainState,
    mesh: Mesh,
    task: Task,
) -> TrainStep:
    return make_train_step(
        model,
        optimizer,
        seed=config.seed,
        num_classes=model.num_classes,
        label_smoothing=config.loss.label_smoothing,
        mixup_alpha=config.loss.mixup_alpha,
        cutmix_alpha=config.loss.cutmix_alpha,
        random_erasing_rate=config.loss.random_erasing,
        batch_augmentations=_batch_augmentations_from_config(config),
        ema_decay=config.train.ema_decay,
        grad_accum_steps=config.train.grad_accum_steps,
        state_shardings=jax.tree.map(lambda leaf: leaf.sharding, target),
        mesh=mesh,
        task=task,
        autotune=config.train.autotune,
    )
