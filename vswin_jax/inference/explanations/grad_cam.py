"""Grad-CAM: the places of a clip that raise the logit of a class.

Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, equations 1 and 2, with the mean over time as well as space. The feature
map is the output of a stage's last block, before patch merging.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, PyTree

from vswin_jax.inference.clip_inputs import normalize
from vswin_jax.inference.explanations.captured_layers import (
    check_stage,
    intercept_layer,
    plain_model,
)
from vswin_jax.models import SwinTransformer3D

PREDICTED = -1


class GradCamResult(NamedTuple):
    """The maps of a batch of clips.

    Attributes:
      maps: not scaled, and at least 0.
      logits: of all classes.
      classes: those that the maps explain.
    """

    maps: Float32[Array, "B D H W"]
    logits: Float32[Array, "B K"]
    classes: Int[Array, " B"]


class GradCam:
    """Grad-CAM of one stage, compiled once for each size of the clips.

    Args:
      model: a model with a classifier.
      stage: the stage, counted from 0.

    Raises:
      InputError: the model has no such stage.
    """

    def __init__(self, model: SwinTransformer3D, stage: int) -> None:
        self._model = plain_model(model)
        self._block = last_block(model, check_stage(model, stage))
        self._compiled = jax.jit(self._explain)

    def __call__(
        self, params: PyTree, clips: Float[Array, "B T H W 3"], classes: Int[Array, " B"]
    ) -> GradCamResult:
        """Explain a class of each clip, uint8 or normalised; `PREDICTED` is its predicted class."""
        return self._compiled(params, clips, classes)

    def _explain(self, params: PyTree, clips: jax.Array, classes: jax.Array) -> GradCamResult:
        clips = normalize(clips)
        features, logits = self._forward(params, clips, None)
        classes = jnp.where(classes == PREDICTED, logits.argmax(-1), classes)

        def sum_logits(offset: jax.Array) -> jax.Array:
            _, shifted = self._forward(params, clips, offset)
            return jnp.take_along_axis(shifted, classes[:, None], axis=-1).sum()

        # The gradient of an offset of zero is that of the features themselves.
        gradients = jax.grad(sum_logits)(jnp.zeros_like(features))
        return GradCamResult(weigh_features(features, gradients), logits, classes)

    def _forward(
        self, params: PyTree, clips: jax.Array, offset: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Return the block's feature maps and the logits; `offset` is added to the maps."""
        seen: list[jax.Array] = []

        def replace(_layer: object, _arguments: object, result: jax.Array) -> jax.Array:
            seen.append(result if offset is None else result + offset)
            return seen[-1]

        with intercept_layer(self._block, replace):
            logits = self._model.apply({"params": params}, clips)
        return seen[0], logits.astype(jnp.float32)


def last_block(model: SwinTransformer3D, stage: int) -> tuple[str, ...]:
    """Return the path of the last block of a stage."""
    return (f"layers_{stage}", f"blocks_{model.depths[stage] - 1}")


def weigh_features(
    features: Float[Array, "B D H W C"], gradients: Float[Array, "B D H W C"]
) -> Float32[Array, "B D H W"]:
    """Return the ReLU of the sum of all channels, each times its mean gradient."""
    weights = gradients.astype(jnp.float32).mean((1, 2, 3))
    return jax.nn.relu(jnp.einsum("bdhwc,bc->bdhw", features.astype(jnp.float32), weights))
