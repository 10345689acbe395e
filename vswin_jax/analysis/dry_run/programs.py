"""Compiles the steps of a run from its config, without making arrays or reading videos."""

import contextlib
import logging
import math
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vswin_jax import factory, models
from vswin_jax.analysis.compiled_program import CompiledProgram, read_program
from vswin_jax.analysis.dry_run.dataset_size import DatasetSize, dataset_size
from vswin_jax.errors import InputError
from vswin_jax.runtime.hardware import ChipSpec, chip_of
from vswin_jax.sharding.mesh import batch_shardings, mesh_from_config, num_batch_shards
from vswin_jax.training.durations import TrainingDurations
from vswin_jax.training.setup import TrainingSetup
from vswin_jax.training.state import TrainState, inference_params
from vswin_jax.training.steps import TrainStep, make_eval_step
from vswin_jax.training.task import task_from_config

log = logging.getLogger("vswin_jax")

LOG_SECONDS = 30.0  # between two log lines of a compilation

_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class CompileTarget:
    """A config on a mesh of devices, which may be those of a topology, to compile for.

    Attributes:
      config: The config of the run.
      model: The model, split over the mesh.
      mesh: The mesh of the devices.
      chip: The peaks of a device; None for devices that are not in `hardware.CHIPS`, such as CPUs.
      train_step: The training step.
      state: The training state, as shapes with shardings.
      durations: The length of the run, in steps.
      dataset: The numbers of videos and classes.
    """

    config: ConfigDict
    model: models.SwinTransformer3D
    mesh: Mesh
    chip: ChipSpec | None
    train_step: TrainStep
    state: TrainState
    durations: TrainingDurations
    dataset: DatasetSize

    @classmethod
    def from_config(
        cls,
        config: ConfigDict,
        devices: Sequence[jax.Device],
        dataset: DatasetSize | None = None,
    ) -> "CompileTarget":
        """Build the model, the mesh and the abstract state that a config describes.

        If `dataset` is None, it is that of the config.

        Raises:
          InputError: The mesh does not fit the devices, a setting is wrong, or the data is here but
            cannot be read.
        """
        mesh = mesh_from_config(config, devices)
        dataset = dataset or dataset_size(config)
        model = factory.split_over(mesh, config, factory.build_model(config, dataset.classes))
        setup = TrainingSetup.from_config(
            config, dataset.training, model=model, mesh=mesh, task=task_from_config(config)
        )
        return cls(
            config=config,
            model=model,
            mesh=mesh,
            chip=chip_of(devices[0].device_kind),
            train_step=setup.train_step,
            state=setup.target,
            durations=setup.durations,
            dataset=dataset,
        )

    @property
    def assumed(self) -> tuple[str, ...]:
        """Sentences about values that the config leaves open."""
        return self.dataset.assumed

    @property
    def padded_eval_batch(self) -> int:
        """Videos of an evaluation batch, padded to a multiple of the batch shards."""
        shards = num_batch_shards(self.mesh)
        return math.ceil(self.config.eval.batch_size / shards) * shards

    def batch(self, rows: int, views: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes and shardings of a batch on the devices.

        Raises:
          InputError: The rows or the clips do not divide over the mesh.
        """
        data, shards = self.config.data, num_batch_shards(self.mesh)
        if rows % shards:
            raise InputError(
                f"A batch of {rows} clips does not divide into {shards} equal shards, the product "
                f"of the mesh's batch axes: make config.train.batch_size a multiple of {shards}, "
                f"or use fewer devices."
            )
        label = task_from_config(self.config).blank_labels(rows, self.model.num_classes)
        arrays = {
            "video": ((rows, views, data.num_frames, data.size, data.size, 3), jnp.uint8),
            "label": (label.shape, label.dtype),
            "mask": ((rows,), jnp.float32),
            "flip": ((rows,), jnp.bool_),
        }
        shapes = {name: shape for name, (shape, _) in arrays.items()}
        shardings = batch_shardings(shapes, self.mesh, self.config.mesh.window_over)
        return {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=shardings[name])
            for name, (shape, dtype) in arrays.items()
        }


@dataclass(frozen=True)
class CompileResult:
    """The result of compiling a step.

    Attributes:
      name: The name of the step.
      seconds: The time of the compilation.
      program: The compiled program; None if it ran out of memory at compile time.
      needed: The bytes that the step needs on each device.
      available: The memory of a device in bytes, or None if it is unknown.
    """

    name: str
    seconds: float
    program: CompiledProgram | None
    needed: int
    available: int | None

    @property
    def fits(self) -> bool | None:
        """True if the step fits the memory of a device, None if that memory is unknown."""
        return None if self.available is None else self.needed <= self.available


def compile_train_step(target: CompileTarget) -> CompileResult:
    """Compile the training step for the batch of the config.

    Raises:
      InputError: The batch does not divide over the mesh.
    """
    batch = target.batch(target.config.train.batch_size, views=1)
    return _compile(target, "training step", target.train_step, target.state, batch)


def compile_eval_step(target: CompileTarget) -> CompileResult:
    """Compile the step of the final evaluation, with all views."""
    config, views = target.config, target.config.eval
    batch = target.batch(target.padded_eval_batch, views.num_clips * views.num_crops)
    step = make_eval_step(
        target.model,
        views.views_per_pass,
        task_from_config(config),
        target.mesh,
        config.train.autotune,
    )
    shapes = {name: batch[name] for name in ("video", "label", "flip")}
    return _compile(target, "evaluation step", step, inference_params(target.state), shapes)


def _compile(target: CompileTarget, name: str, step: Any, *arguments: Any) -> CompileResult:
    available = target.chip.memory_bytes if target.chip else None
    start = time.monotonic()
    # With the mesh set, implementations are chosen for its platform and not for this machine's.
    use_mesh = jax.sharding.use_abstract_mesh(target.mesh.abstract_mesh)
    activity = f"compiling the {name} for {target.mesh.size} devices"
    with _log_progress(activity), use_mesh:
        try:
            compiled = step.lower(*arguments).compile()
        except jax.errors.JaxRuntimeError as error:
            needed, limit = _parse_out_of_memory(error)
            return CompileResult(name, time.monotonic() - start, None, needed, limit)
    seconds = time.monotonic() - start
    program = read_program(compiled)
    return CompileResult(name, seconds, program, program.memory.peak, available)


def _parse_out_of_memory(error: jax.errors.JaxRuntimeError) -> tuple[int, int]:
    """Parse the bytes needed and available from "... (28.0G) exceeds ... (15.75G)".

    Raises:
      jax.errors.JaxRuntimeError: `error` itself, if it is of another kind.
    """
    text = str(error)
    sizes = re.findall(r"\b(\d+(?:\.\d+)?)([KMGT]?)i?B?\b", text.partition("emory")[2])
    if "RESOURCE_EXHAUSTED" not in text or len(sizes) < 2:
        raise error
    needed, limit = (int(float(number) * _SIZES[unit]) for number, unit in sizes[:2])
    return needed, limit


@contextlib.contextmanager
def _log_progress(activity: str) -> Iterator[None]:
    """Log `activity` and regularly its elapsed time, since compilers report no progress."""
    done, start = threading.Event(), time.monotonic()

    def log_elapsed() -> None:
        while not done.wait(LOG_SECONDS):
            log.info("%s: %.0f s so far", activity, time.monotonic() - start)

    log.info("%s", activity)
    thread = threading.Thread(target=log_elapsed, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
