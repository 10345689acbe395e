"""The program of an export: uint8 clips in, probabilities out, for several platforms at once.

Only operations of StableHLO are in it. Pallas and cuDNN kernels are custom calls, which are bound
to the versions of JAX and of the driver that they were compiled with, so no export has them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jaxtyping import PyTree

from vswin_jax.inference.trained_model import TrainedModel, class_probabilities
from vswin_jax.models import SwinTransformer3D
from vswin_jax.training.task import Task

PLATFORMS = ("cpu", "cuda", "tpu")

# The layers of each platform, in words, for the description of an export.
LAYERS = {
    "cpu": "clip by clip, a few attention windows at a time",
    "cuda": "plain XLA operations, without cuDNN's attention",
    "tpu": "plain XLA operations, without Pallas kernels",
}

PlatformProgram = Callable[[PyTree, jax.Array], jax.Array]


def platform_program(model: SwinTransformer3D, task: Task) -> PlatformProgram:
    """Return a function of (parameters, uint8 clips) that chooses the layers of its platform."""
    # By name: "auto" would choose for the machine that exports.
    on_cpu = model.clone(attention="chunked", tokenwise="chunked")
    elsewhere = model.clone(attention="xla", tokenwise="xla")

    def call(params: PyTree, clips: jax.Array) -> jax.Array:
        # The model needs the number of clips when it is traced, so it gets one clip.
        def of_clip(module: SwinTransformer3D) -> Callable[[jax.Array], jax.Array]:
            return lambda clip: class_probabilities(module, task, params, clip[None])[0]

        return jax.lax.platform_dependent(
            clips,
            cpu=lambda clips: jax.lax.map(of_clip(on_cpu), clips),
            default=jax.vmap(of_clip(elsewhere)),
        )

    return call


def export_program(loaded: TrainedModel, *, has_constants: bool) -> jax.export.Exported:
    """Lower the program of a model for `PLATFORMS`, with any number of clips.

    With `has_constants` the parameters are constants of the program and the clips its one argument;
    otherwise the parameters come first.
    """
    program = platform_program(loaded.model, loaded.task)
    clips = jax.ShapeDtypeStruct(_clip_shape(loaded), jnp.uint8)
    if has_constants:
        # NumPy's arrays are cast to the compute dtype here, and not in the program.
        params = jax.device_get(loaded.params)
        return _export(lambda clips: program(params, clips), clips)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), loaded.params)
    return _export(program, shapes, clips)


def _clip_shape(loaded: TrainedModel) -> tuple[Any, ...]:
    size = loaded.spec.size
    return (*jax.export.symbolic_shape("batch"), loaded.spec.num_frames, size, size, 3)


def _export(program: Callable[..., jax.Array], *shapes: PyTree) -> jax.export.Exported:
    return jax.export.export(jax.jit(program), platforms=PLATFORMS)(*shapes)
