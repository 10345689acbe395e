"""A 3D Swin for other windows or patches, in space and in time: what the reference cannot do.

Equal sizes are the identity, bit for bit. What changes, and why this way:

- *Tables in space* are stretched over the new window by PyTorch's bicubic, as the paper does from
  2D to 3D.
- *Tables in time* keep what an offset means: the bias for tokens that lie k frames apart is still
  the one for k frames. Beyond the old window the farthest bias is repeated; a shorter window
  forgets the far ones; with other patches, offsets between two old ones are interpolated linearly.
  So from (8, 7, 7) to (16, 7, 7) clips of up to 8 tokens in time give the same maps as before, and
  a table that is constant in time, as inflation makes it, stays so.
- *Patches in time* spread their weights over the new frames in proportion, so a still clip has the
  same embedding: 2 frames to 4 halves each weight and gives it to two frames.
- *Patches in space*: see `inflate.resize_patch`.
"""

from collections.abc import Mapping

import numpy as np

from vswin_jax.attention import Size
from vswin_jax.errors import InputError
from vswin_jax.weights.inflation.inflate import (
    PATCH_KERNEL,
    TABLE,
    Changed,
    resize_patch,
    resize_slices,
)


def resize(
    state: Mapping[str, np.ndarray],
    patch_size: Size,
    window_size: Size,
    *,
    from_window: Size,
) -> Changed:
    """A canonical 3D state_dict for other patches and windows, and how tensors were changed.

    Args:
      state: canonical; tensors that need no change are returned as they are, the others in
        float32.
      patch_size: (time, height, width) of the new model, in frames and pixels.
      window_size: (time, height, width) of the new model, in tokens.
      from_window: that of `state`, which the rows of its tables alone do not say.

    Raises:
      InputError: tables that are not those of `from_window`, or no patch kernel.
    """
    kernel = state.get(PATCH_KERNEL)
    if kernel is None or kernel.ndim != 5 or not kernel.size:
        came = "none" if kernel is None else f"one of shape {kernel.shape}"
        raise InputError(
            f"Expected a patch kernel {PATCH_KERNEL!r} [out, in, time, height, width] but {came} "
            f"came: give the checkpoint of a Video Swin Transformer."
        )
    stretch = patch_size[0] / kernel.shape[2]
    resized, how = dict(state), {}
    if kernel.shape[2:] != tuple(patch_size):
        resized[PATCH_KERNEL], how[PATCH_KERNEL] = _resize_patches(kernel, patch_size)
    for name in (name for name in state if name.endswith(TABLE)):
        grid = _as_grid(name, state[name], from_window)
        if tuple(from_window) != tuple(window_size) or stretch != 1:
            grid = np.asarray(grid, np.float32)
            resized[name], how[name] = _resize_table(grid, window_size, stretch)
    return resized, how


def _resize_patches(kernel: np.ndarray, patch_size: Size) -> tuple[np.ndarray, str]:
    frames, *sizes = patch_size
    kernel, how = resize_patch(kernel, tuple(sizes))
    before = kernel.shape[2]
    if before != frames:
        shares = _overlaps(before, frames).astype(np.float32)
        kernel = np.einsum("ft,oithw->oifhw", shares, np.asarray(kernel, np.float32))
        how += f"spread from {before} to {frames} frames"
    return kernel, how.removesuffix(", ")


def _overlaps(before: int, after: int) -> np.ndarray:
    """`[after, before]`: which share of each old frame lies in each new one; columns sum to 1."""
    ends = np.arange(after + 1)[:, None] * before / after - np.arange(before)
    return np.diff(np.clip(ends, 0, 1), axis=0)


def _as_grid(name: str, table: np.ndarray, window: Size) -> np.ndarray:
    sizes = tuple(2 * extent - 1 for extent in window)
    if table.ndim != 2 or table.shape[0] != np.prod(sizes):
        raise InputError(
            f"Expected the bias table of a window {window}, of {np.prod(sizes)} rows, but {name!r} "
            f"has shape {table.shape}: say the checkpoint's own window, or take another one."
        )
    return table.reshape(*sizes, table.shape[1])


def _resize_table(grid: np.ndarray, window: Size, stretch: float) -> tuple[np.ndarray, str]:
    grid, how = resize_slices(grid, tuple(window[1:]))
    time = (grid.shape[0] + 1) // 2
    if time != window[0] or stretch != 1:
        grid = _take_offsets(grid, window[0], stretch)
        how += f"offsets in time from {time} tokens to {window[0]}"
    if stretch != 1:
        how += f" of {stretch:g} times the frames"
    return grid.reshape(-1, grid.shape[-1]), how.removesuffix(", ")


def _take_offsets(grid: np.ndarray, time: int, stretch: float) -> np.ndarray:
    """The slices of `grid` at the offsets of a window of `time` tokens, `stretch` old ones each."""
    middle = (len(grid) - 1) / 2
    places = np.clip(np.arange(1 - time, time) * stretch + middle, 0, len(grid) - 1)
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, len(grid) - 1)
    share = (places - below).astype(grid.dtype)[:, None, None, None]
    # Written so that equal neighbours give their own value, bit for bit.
    return grid[below] + share * (grid[above] - grid[below])
