"""A 2D Swin made 3D, as section 3.4 of the paper and `inflate_weights` of the reference do."""

from collections.abc import Mapping

import numpy as np

from vswin_jax.attention import Size
from vswin_jax.errors import InputError

_PATCH_KERNEL = "patch_embed.proj.weight"
_TABLE = "relative_position_bias_table"


def is_2d(state: Mapping[str, np.ndarray]) -> bool:
    """Whether a canonical state_dict is that of an image model: its patches have no time axis."""
    return _PATCH_KERNEL in state and state[_PATCH_KERNEL].ndim == 4


def inflate(
    state: Mapping[str, np.ndarray], patch_size: Size, window_size: Size
) -> dict[str, np.ndarray]:
    """A canonical 3D state_dict from a 2D one; the image classifier is left behind.

    The patch kernel is repeated over time and divided by the repeats, and each bias table is
    repeated for every offset in time, so a video that stands still gives the maps of the image.

    Raises:
      InputError: the 2D windows or patches are not those of the 3D model.
    """
    inflated = {}
    for name, value in state.items():
        if name == _PATCH_KERNEL:
            value = _inflate_patches(value, patch_size)
        elif name.endswith(_TABLE):
            value = _inflate_table(value, window_size)
        if not name.startswith("head."):
            inflated[name] = value
    return inflated


def _inflate_patches(kernel: np.ndarray, patch_size: Size) -> np.ndarray:
    frames, height, width = patch_size
    if kernel.shape[2:] != (height, width):
        raise InputError(
            f"The checkpoint's patches are {kernel.shape[2]}x{kernel.shape[3]} pixels but the "
            f"model's are {height}x{width}: set patch_size to (time, {kernel.shape[2]}, "
            f"{kernel.shape[3]}) or take another checkpoint."
        )
    return np.repeat(kernel[:, :, None] / frames, frames, axis=2)


def _inflate_table(table: np.ndarray, window_size: Size) -> np.ndarray:
    time, height, width = window_size
    if table.shape[0] != (2 * height - 1) * (2 * width - 1):
        side = (round(table.shape[0] ** 0.5) + 1) // 2
        raise InputError(
            f"The checkpoint's windows are {side}x{side} tokens but the model's are "
            f"{height}x{width}: set window_size to (time, {side}, {side}) or take a checkpoint "
            f"with windows of {height}x{width}."
        )
    return np.tile(table, (2 * time - 1, 1))
