"""Clips that are given to a trained model: two forms are accepted, all others get a sentence."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vswin_jax.errors import InputError
from vswin_jax.models.clip_check import check_shape
from vswin_jax.training.step_inputs import preprocess

log = logging.getLogger(__name__)

# White is 2.64 after the normalisation, black is -2.12; no augmentation goes so far beyond.
_MAX_NORMALIZED = 10.0


def normalize(clips: Any) -> Float[Array, "B T H W 3"]:
    """Normalise uint8 RGB `[B, T, H, W, 3]` from 0 to 255 to float32.

    The result is (clips - mean) / std; clips of floating-point numbers are normalised already.
    """
    if clips.dtype != np.uint8:
        return clips.astype(jnp.float32)
    return preprocess(clips, jnp.zeros(len(clips), bool))


def checked_clips(clips: Any, *, check_values: bool) -> Any:
    """Return clips as an array of uint8 or of floating-point numbers, after checking them.

    Raises:
      InputError: another shape or dtype; with `check_values`, numbers that are not normalised.
    """
    clips = clips if isinstance(clips, jax.Array | np.ndarray) else np.asarray(clips)
    check_shape(clips.shape, channels=3)
    if clips.dtype == np.uint8:
        return clips
    if not jnp.issubdtype(clips.dtype, jnp.floating):
        raise InputError(
            f"Expected clips of uint8 from 0 to 255, or of normalised floating-point numbers, but "
            f"{clips.dtype.name} came: convert pixels with clips.astype('uint8')."
        )
    if check_values and clips.size:
        _check_values(float(clips.min()), float(clips.max()))
    # 64 bits would be truncated, with a warning, by JAX.
    return clips.astype(np.float32) if clips.dtype == np.float64 else clips


def _check_values(low: float, high: float) -> None:
    if max(-low, high) > _MAX_NORMALIZED:
        raise InputError(
            f"Expected normalised clips, between about -2.1 and 2.6, but values from {low:.4g} to "
            f"{high:.4g} came: give pixels from 0 to 255 as uint8, which are normalised here."
        )
    if low >= 0 and 0.9 < high <= 1:
        log.warning(
            "The clips have values from %.4g to %.4g, as pixels that are divided by 255 "
            "and not normalised: give uint8 RGB from 0 to 255, which is normalised here",
            low,
            high,
        )
