"""Resizes the windows and patches of a 3D Swin in space and time, which the reference cannot do.

Equal sizes are the identity, bit for bit. The rules for other sizes:

- Bias tables in space are resized to the new window by PyTorch's bicubic, as in the paper's
  inflation from 2D to 3D.
- Bias tables in time keep the bias of each distance in frames: two tokens k frames apart have the
  same bias as before. Beyond the old window the farthest bias is repeated; a shorter window drops
  the far ones; with other patches, offsets between two old ones are interpolated linearly.
  Therefore clips of up to 8 tokens in time have the same feature maps after a change from
  (8, 7, 7) to (16, 7, 7), and a table that is constant in time, such as an inflated one, stays so.
- Patch kernels in time are spread over the new frames in proportion to the overlap, so a clip of
  equal frames has the same embedding: from 2 frames to 4, two frames get half of each weight.
- Patch kernels in space: see `inflate.resize_patch`.
"""

from collections.abc import Mapping

import numpy as np

from vswin_jax.attention import Size
from vswin_jax.errors import InputError
from vswin_jax.weights.inflation.inflate import (
    PATCH_KERNEL,
    TABLE,
    ConvertedState,
    resize_patch,
    resize_slices,
)


def resize(
    state: Mapping[str, np.ndarray],
    patch_size: Size,
    window_size: Size,
    *,
    from_window: Size,
) -> ConvertedState:
    """Resize a canonical 3D state_dict; changed tensors are float32, the others are unchanged.

    Args:
      state: the tensors of a video model, by canonical name.
      patch_size: (time, height, width) of the new model, in frames and pixels.
      window_size: (time, height, width) of the new model, in tokens.
      from_window: the window of `state`; several windows can have tables of the same size.

    Raises:
      InputError: tables that are not those of `from_window`, or no patch kernel.
    """
    kernel = _patch_kernel(state)
    # New frames per token over old frames per token.
    time_scale = patch_size[0] / kernel.shape[2]
    resized, changes = dict(state), {}
    if kernel.shape[2:] != tuple(patch_size):
        resized[PATCH_KERNEL], changes[PATCH_KERNEL] = _resize_patches(kernel, patch_size)
    for name in (name for name in state if name.endswith(TABLE)):
        # Reshaped even if the table stays the same, because this checks its number of rows.
        grid = _reshape_to_window(name, state[name], from_window)
        if tuple(from_window) != tuple(window_size) or time_scale != 1:
            grid = np.asarray(grid, np.float32)
            resized[name], changes[name] = _resize_table(grid, window_size, time_scale)
    return resized, changes


def _patch_kernel(state: Mapping[str, np.ndarray]) -> np.ndarray:
    kernel = state.get(PATCH_KERNEL)
    if kernel is None or kernel.ndim != 5 or not kernel.size:
        came = "none" if kernel is None else f"one of shape {kernel.shape}"
        raise InputError(
            f"Expected a patch kernel {PATCH_KERNEL!r} [out, in, time, height, width] but {came} "
            f"came: give the checkpoint of a Video Swin Transformer."
        )
    return kernel


def _resize_patches(kernel: np.ndarray, patch_size: Size) -> tuple[np.ndarray, str]:
    frames, *sizes = patch_size
    kernel, change = resize_patch(kernel, tuple(sizes))
    before = kernel.shape[2]
    if before != frames:
        shares = _overlaps(before, frames).astype(np.float32)
        kernel = np.einsum("ft,oithw->oifhw", shares, np.asarray(kernel, np.float32))
        change += f"spread from {before} to {frames} frames"
    return kernel, change.removesuffix(", ")


def _overlaps(before: int, after: int) -> np.ndarray:
    """Return `[after, before]`, the part of each old frame in each new one; columns sum to 1."""
    ends = np.arange(after + 1)[:, None] * before / after - np.arange(before)
    return np.diff(np.clip(ends, 0, 1), axis=0)


def _reshape_to_window(name: str, table: np.ndarray, window: Size) -> np.ndarray:
    """Reshape a table `[rows, heads]` to `[2t-1, 2h-1, 2w-1, heads]` of a window (t, h, w)."""
    sizes = tuple(2 * extent - 1 for extent in window)
    if table.ndim != 2 or table.shape[0] != np.prod(sizes):
        raise InputError(
            f"Expected the bias table of a window {window}, of {np.prod(sizes)} rows, but {name!r} "
            f"has shape {table.shape}: give the checkpoint's own window, or another checkpoint."
        )
    return table.reshape(*sizes, table.shape[1])


def _resize_table(grid: np.ndarray, window: Size, time_scale: float) -> tuple[np.ndarray, str]:
    grid, change = resize_slices(grid, tuple(window[1:]))
    time = (grid.shape[0] + 1) // 2
    if time != window[0] or time_scale != 1:
        grid = _resample_offsets(grid, window[0], time_scale)
        change += f"offsets in time from {time} tokens to {window[0]}"
    if time_scale != 1:
        change += f" of {time_scale:g} times the frames"
    return grid.reshape(-1, grid.shape[-1]), change.removesuffix(", ")


def _resample_offsets(grid: np.ndarray, time: int, time_scale: float) -> np.ndarray:
    """Interpolate `grid` at the temporal offsets of a window of `time` tokens.

    An offset of one new token is an offset of `time_scale` old tokens.
    """
    middle = (len(grid) - 1) / 2
    positions = np.clip(np.arange(1 - time, time) * time_scale + middle, 0, len(grid) - 1)
    below = np.floor(positions).astype(int)
    above = np.minimum(below + 1, len(grid) - 1)
    fraction = (positions - below).astype(grid.dtype)[:, None, None, None]
    # In this form, the interpolation of two equal neighbours is exact, bit for bit.
    return grid[below] + fraction * (grid[above] - grid[below])
