"""The compiled program that computes the features of the test views of videos."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.errors import unknown_name
from vswin_jax.inference.opened_checkpoint import OpenedCheckpoint
from vswin_jax.inference.video_batches import divisible_batch_size
from vswin_jax.models import SwinTransformer3D
from vswin_jax.models.heads import pool
from vswin_jax.runtime.compilation import compiler_options
from vswin_jax.sharding.constraints import use_activation_mesh
from vswin_jax.training.step_inputs import preprocess
from vswin_jax.training.steps import map_views

# The input of the classifier: the last feature map, averaged over time and space.
POOLED = "pooled"
DTYPES = ("float32", "float16")

_BATCH_SIZE = 8
# Of the features of one batch: those of several batches are in memory at a time.
_MAX_BATCH_BYTES = 64 << 20

FeatureStep = Callable[[PyTree, Mapping[str, Any]], dict[str, jax.Array]]


@dataclass(frozen=True)
class FeatureProgram:
    """A model without its classifier, and the step that computes features.

    Attributes:
      step: the compiled (params, batch) -> {"features": [B, V, ...]}.
      params: the parameters without those of the classifier, NumPy arrays.
      shape: the features of one video, V views first.
      dtype: one of `DTYPES`.
    """

    step: FeatureStep
    params: PyTree
    shape: tuple[int, ...]
    dtype: str

    @property
    def video_bytes(self) -> int:
        """The bytes of the features of one video."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def batch_size(self, requested: int | None, devices: int) -> int:
        """Return the number of videos of a batch, which the devices divide.

        Raises:
          InputError: less than one is requested.
        """
        if requested is None:
            requested = max(1, min(_BATCH_SIZE, _MAX_BATCH_BYTES // self.video_bytes))
        return divisible_batch_size(requested, devices)


def feature_program(
    opened: OpenedCheckpoint, spec: ClipSpec, layer: str, dtype: str, mesh: Mesh
) -> FeatureProgram:
    """Load the parameters of a checkpoint and build the step for one layer of its model.

    Raises:
      InputError: there is no such layer or dtype, or the parameters are those of another model.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype of features", dtype, DTYPES, "dtype")
    model = opened.build_model()
    shapes = layer_shapes(model, spec)
    if layer not in shapes:
        raise unknown_name("layer", layer, shapes, "layer")
    params = {name: value for name, value in opened.load(model).items() if name != "head"}
    step = _make_step(model, layer, dtype, opened.config.eval.views_per_pass, mesh)
    return FeatureProgram(step, params, (spec.views, *shapes[layer]), dtype)


def layer_shapes(model: SwinTransformer3D, spec: ClipSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of one view's features, without the axis of the batch, by layer."""
    clip = jax.ShapeDtypeStruct((1, spec.num_frames, spec.size, spec.size, 3), jnp.float32)
    maps = jax.eval_shape(lambda clip: _initial_maps(model, clip), clip)
    return {POOLED: maps["final"].shape[-1:]} | {name: x.shape[1:] for name, x in maps.items()}


def _initial_maps(model: SwinTransformer3D, clip: jax.Array) -> dict[str, jax.Array]:
    params = model.init(jax.random.key(0), clip)
    return model.apply(params, clip, method="features")


def _make_step(
    model: SwinTransformer3D, layer: str, dtype: str, views_per_pass: int, mesh: Mesh
) -> FeatureStep:
    def features_of_views(params: PyTree, video: jax.Array) -> jax.Array:
        rows, size = video.shape[:2]
        clips = video.reshape(rows * size, *video.shape[2:])
        maps = model.apply(
            {"params": params},
            preprocess(clips, jnp.zeros(len(clips), bool)),
            method="features",
        )
        found = pool(maps["final"]) if layer == POOLED else maps[layer]
        return found.reshape(rows, size, *found.shape[1:]).astype(dtype)

    def step(params: PyTree, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        with use_activation_mesh(mesh):
            by_view = map_views(
                lambda video: features_of_views(params, video), batch["video"], views_per_pass
            )
        return {"features": by_view}

    return jax.jit(step, compiler_options=compiler_options(mesh, autotune=False))
