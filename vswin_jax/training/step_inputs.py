"""Model inputs: normalised, augmented clips and soft targets, from a batch of uint8 clips.

All randomness is a function of (seed, step), so a resumed run draws the same numbers as a run that
was never interrupted.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from vswin_jax.training.batch_augmentations import mix, random_erasing
from vswin_jax.training.batch_registry import BatchSteps, augment_batch
from vswin_jax.training.task import SINGLE_LABEL, Task

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)

Batch = Mapping[str, jax.Array | np.ndarray]


class StepInputs(NamedTuple):
    """Arguments of the model and the loss for a batch or a micro-batch.

    Attributes:
      clips: normalised pixels, float32 [B, T, H, W, 3].
      targets: soft targets, float32 [B, K].
      label: int32 [B], or float32 [B, K] of multi-label data.
      mask: float32 [B], 0 for padding.
    """

    clips: jax.Array
    targets: jax.Array
    label: jax.Array
    mask: jax.Array


def preprocess(
    video: UInt8[Array | np.ndarray, "B T H W 3"],
    flip: Bool[Array | np.ndarray, " B"],
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Float[Array, "B T H W 3"]:
    """Mirror the clips whose `flip` is True and normalise all of them.

    The result is `(x - mean) * (1 / std)` of values from 0 to 255, as in mmcv's `imnormalize_`.
    """
    video = jnp.where(flip[:, None, None, None, None], video[:, :, :, ::-1], video)
    scale = 1.0 / jnp.asarray(PIXEL_STD, jnp.float32)
    return ((video.astype(jnp.float32) - jnp.asarray(PIXEL_MEAN, jnp.float32)) * scale).astype(
        dtype
    )


def to_pixels(clips: Float[Array, "*batch 3"]) -> UInt8[Array, "*batch 3"]:
    """Undo the normalisation of `preprocess`, for display."""
    pixels = clips.astype(jnp.float32) * jnp.asarray(PIXEL_STD) + jnp.asarray(PIXEL_MEAN)
    return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)


def step_keys(seed: int, step: jax.typing.ArrayLike) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Return the augmentation key and the dropout key of the step that follows `step` steps."""
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
    return augment_key, dropout_key


def prepare_inputs(
    key: PRNGKeyArray,
    batch: Batch,
    *,
    num_classes: int,
    label_smoothing: float,
    mixup_alpha: float,
    cutmix_alpha: float,
    random_erasing_rate: float,
    batch_augmentations: BatchSteps = (),
    task: Task = SINGLE_LABEL,
) -> StepInputs:
    """Flip, normalise, erase, augment and mix a training batch; all rows keep their place.

    `batch` is that of `steps.make_train_step`, and `key` the first of `step_keys`.
    """
    erase_key, mix_key = jax.random.split(key)
    clips = preprocess(batch["video"][:, 0], batch["flip"])
    targets = task.targets(batch["label"], num_classes, label_smoothing)
    if random_erasing_rate:
        clips = random_erasing(erase_key, clips, random_erasing_rate)
    clips, targets = augment_batch(batch_augmentations, key, clips, targets, batch["mask"])
    clips, targets = mix(
        mix_key,
        clips,
        targets,
        batch["mask"],
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
    )
    return StepInputs(clips=clips, targets=targets, label=batch["label"], mask=batch["mask"])
