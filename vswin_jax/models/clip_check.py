"""Checks that an array holds clips as the model expects them, before a layer fails on them."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import DTypeLike

from vswin_jax.errors import InputError

_EXPECTED = "Expected a batch of clips [B, T, H, W, 3]"
# Shapes in other orders, by the axis of the channels, and the way to ours.
_ORDERS = {
    (5, 1): ("PyTorch's [B, C, T, H, W]", "clips.transpose(0, 2, 3, 4, 1)"),
    (5, 2): ("[B, T, C, H, W]", "clips.transpose(0, 1, 3, 4, 2)"),
    (4, 0): ("one clip [C, T, H, W]", "clip.transpose(1, 2, 3, 0)[None]"),
    (4, 1): ("one clip [T, C, H, W]", "clip.transpose(0, 2, 3, 1)[None]"),
    (6, 2): ("mmaction2's [B, N, C, T, H, W]", "clips[:, 0].transpose(0, 2, 3, 4, 1)"),
}
# More channels than any kind of picture has: the last axis is a width then.
_MAX_CHANNELS = 4


def check_clips(shape: Sequence[int], dtype: DTypeLike) -> None:
    """Check the shape and the dtype of normalised clips.

    Raises:
      InputError: another number or order of axes, or integers; the message has the remedy.
    """
    check_shape(shape)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(
            f"Expected normalised clips of floating-point numbers but {jnp.dtype(dtype).name} "
            f"came: normalise RGB from 0 to 255 as (clips - mean) / std with the mean (123.675, "
            f"116.28, 103.53) and the deviation (58.395, 57.12, 57.375)."
        )


def check_shape(shape: Sequence[int], channels: int | None = None) -> None:
    """Check that `shape` is that of clips, with a certain number of channels if it is given.

    Raises:
      InputError: another number or order of axes; the message has the remedy.
    """
    shape = tuple(shape)
    for (axes, axis), (order, remedy) in _ORDERS.items():
        if len(shape) == axes and shape[axis] in (1, 3) and shape[-1] > _MAX_CHANNELS:
            raise InputError(f"{_EXPECTED} but {shape} came, which is {order}: give {remedy}.")
    if len(shape) == 4:
        raise InputError(
            f"{_EXPECTED} but one clip of shape {shape} came: add the axis of the batch, as in "
            f"model(clip[None])."
        )
    if len(shape) != 5 or 0 in shape[1:]:
        raise InputError(f"{_EXPECTED} but an array of shape {shape} came: give such a batch.")
    if channels is not None and shape[-1] != channels:
        raise InputError(
            f"{_EXPECTED} but {shape} came, with {shape[-1]} channels: give RGB, the channels last."
        )
