"""The programs of a run, compiled from its config alone: no array is made and no file is read."""

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
from vswin_jax.data.moving_shapes.moving_shapes import CLASSES
from vswin_jax.errors import InputError
from vswin_jax.runtime.hardware import Chip, chip_of
from vswin_jax.sharding.mesh import batch_parts, batch_shardings, mesh_of
from vswin_jax.training.setup import abstract_training
from vswin_jax.training.state import TrainState, inference_params
from vswin_jax.training.steps import TrainStep, make_eval_step
from vswin_jax.training.task import task_of

log = logging.getLogger("vswin_jax")

# Kinetics-400's training videos, in round numbers: the length of the schedule is all they decide.
NUM_EXAMPLES = 240_000
NUM_CLASSES = 400
STILL_COMPILING = 30.0  # seconds between two lines

_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Subject:
    """What is compiled: a config on a mesh of devices, which may be those of a topology.

    chip: None where the table of chips does not have the devices, such as CPUs; assumed: what the
    config leaves open and how it was filled, in sentences.
    """

    config: ConfigDict
    model: models.SwinTransformer3D
    mesh: Mesh
    chip: Chip | None
    train_step: TrainStep
    state: TrainState
    assumed: tuple[str, ...]

    @classmethod
    def of(cls, config: ConfigDict, devices: Sequence[jax.Device]) -> "Subject":
        """The subject of a config.

        Raises:
            InputError: the mesh does not fit the devices, or a setting is wrong.
        """
        mesh = mesh_of(config, devices)
        classes, assumed = _num_classes(config)
        model = factory.split_over(mesh, config, factory.build_model(config, classes))
        train_step, state = abstract_training(
            config, model=model, num_examples=NUM_EXAMPLES, mesh=mesh, task=task_of(config)
        )
        assumed += (f"an epoch has {NUM_EXAMPLES:,} videos (only the schedule's length knows)",)
        chip = chip_of(devices[0].device_kind)
        return cls(config, model, mesh, chip, train_step, state, assumed)

    @property
    def eval_rows(self) -> int:
        """Videos of a batch of the evaluation, which is filled up to divide."""
        return math.ceil(self.config.eval.batch_size / batch_parts(self.mesh)) * batch_parts(
            self.mesh
        )

    def batch(self, rows: int, views: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a batch as it lies on the devices.

        Raises:
            InputError: the rows or the clips do not divide over the mesh.
        """
        data, shards = self.config.data, batch_parts(self.mesh)
        if rows % shards:
            raise InputError(
                f"A batch of {rows} clips does not divide over {shards} devices: make "
                f"config.train.batch_size a multiple of {shards}, or use fewer devices."
            )
        label = task_of(self.config).blank_labels(rows, self.model.num_classes)
        shapes = {
            "video": ((rows, views, data.num_frames, data.size, data.size, 3), jnp.uint8),
            "label": (label.shape, label.dtype),
            "mask": ((rows,), jnp.float32),
            "flip": ((rows,), jnp.bool_),
        }
        sizes = {name: shape for name, (shape, _) in shapes.items()}
        shardings = batch_shardings(sizes, self.mesh, self.config.mesh.window_over)
        return {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=shardings[name])
            for name, (shape, dtype) in shapes.items()
        }


def _num_classes(config: ConfigDict) -> tuple[int, tuple[str, ...]]:
    if config.data.kind == "moving_shapes":
        return len(CLASSES), ()
    if config.model.num_classes is not None:
        return config.model.num_classes, ()
    return NUM_CLASSES, (f"there are {NUM_CLASSES} classes (config.model.num_classes is unset)",)


@dataclass(frozen=True)
class Attempt:
    """What the compiler made of a step.

    program: None where it found that the step needs more memory than a chip has; needed: bytes a
    chip; available: those that there are, or None where nobody knows.
    """

    name: str
    seconds: float
    program: CompiledProgram | None
    needed: int
    available: int | None

    @property
    def fits(self) -> bool | None:
        """None where nobody knows."""
        return None if self.available is None else self.needed <= self.available


def compile_train_step(subject: Subject) -> Attempt:
    """The training step, on the config's batch.

    Raises:
        InputError: a batch that does not divide.
    """
    batch = subject.batch(subject.config.train.batch_size, views=1)
    return _compile(subject, "training step", subject.train_step, subject.state, batch)


def compile_eval_step(subject: Subject) -> Attempt:
    """The step of the evaluation that ends a run, with all views."""
    config, views = subject.config, subject.config.eval
    batch = subject.batch(subject.eval_rows, views.clips * views.crops)
    step = make_eval_step(
        subject.model, views.views_per_pass, task_of(config), subject.mesh, config.train.autotune
    )
    shapes = {name: batch[name] for name in ("video", "label", "flip")}
    return _compile(subject, "evaluation step", step, inference_params(subject.state), shapes)


def _compile(subject: Subject, name: str, step: Any, *arguments: Any) -> Attempt:
    available = subject.chip.memory_bytes if subject.chip else None
    start = time.monotonic()
    # What is chosen by platform is chosen for these devices, not for this machine's.
    on_devices = jax.sharding.use_abstract_mesh(subject.mesh.abstract_mesh)
    with _saying(f"compiling the {name} for {subject.mesh.size} devices"), on_devices:
        try:
            compiled = step.lower(*arguments).compile()
        except jax.errors.JaxRuntimeError as error:
            needed, limit = _sizes_of_failure(error)
            return Attempt(name, time.monotonic() - start, None, needed, limit)
    seconds = time.monotonic() - start
    program = read_program(compiled)
    return Attempt(name, seconds, program, program.memory.peak, available)


def _sizes_of_failure(error: jax.errors.JaxRuntimeError) -> tuple[int, int]:
    """Bytes needed and there, from a compiler's words: "... (28.0G) exceeds ... (15.75G)".

    An error of any other kind is raised again.
    """
    text = str(error)
    sizes = re.findall(r"\b(\d+(?:\.\d+)?)([KMGT]?)i?B?\b", text.partition("emory")[2])
    if "RESOURCE_EXHAUSTED" not in text or len(sizes) < 2:
        raise error
    needed, limit = (int(float(number) * _SIZES[unit]) for number, unit in sizes[:2])
    return needed, limit


@contextlib.contextmanager
def _saying(what: str) -> Iterator[None]:
    """Says now and then that `what` still goes on: a compiler does not tell how far it is."""
    done, start = threading.Event(), time.monotonic()

    def speak() -> None:
        while not done.wait(STILL_COMPILING):
            log.info("%s: %.0f s so far", what, time.monotonic() - start)

    log.info("%s", what)
    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
