"""Inflates the weights of a 2D Swin to 3D (paper, section 3.4; `inflate_weights` of the reference).

Functions that change a tensor also return a description of the change, for the load report.
"""

from collections.abc import Mapping

import numpy as np

from vswin_jax.attention import Size
from vswin_jax.errors import InputError, unknown_name
from vswin_jax.weights.inflation.bicubic import resize_bicubic

PATCH_KERNEL = "patch_embed.proj.weight"
TABLE = "relative_position_bias_table"
PATCHES = ("inflate", "center")
TABLES = ("duplicate", "center")

# The tensors by name, and a description of the change for each changed one.
ConvertedState = tuple[dict[str, np.ndarray], dict[str, str]]


def is_2d(state: Mapping[str, np.ndarray]) -> bool:
    """Return True for the canonical state_dict of an image model: its patches have no time axis."""
    return PATCH_KERNEL in state and state[PATCH_KERNEL].ndim == 4


def inflate(
    state: Mapping[str, np.ndarray],
    patch_size: Size,
    window_size: Size,
    *,
    patches: str = "inflate",
    tables: str = "duplicate",
) -> ConvertedState:
    """Inflate a canonical 2D state_dict; changed tensors are float32, the others are unchanged.

    With tables "duplicate", a video of equal frames has the feature maps of the image. Tables of
    another 2D window are first resized by PyTorch's bicubic, as in the reference. So is the kernel
    of another 2D patch (see `resize_patch`), which the reference refuses.

    Args:
      state: the tensors of an image model, by canonical name.
      patch_size: (time, height, width) of the 3D model, in frames and pixels.
      window_size: (time, height, width) of the 3D model, in tokens.
      patches: "inflate" repeats the patch kernel over time and divides it by the number of frames;
        "center" puts it into the middle frame, with zeros in the others.
      tables: "duplicate" repeats each bias table for every temporal offset; "center" puts it at
        offset 0, with zeros at the others.

    Raises:
      InputError: an unknown method, or a tensor with an impossible shape.
    """
    _check_methods(patches, tables)
    inflated, changes = dict(state), {}
    for name, value in state.items():
        if name == PATCH_KERNEL:
            kernel = np.asarray(value, np.float32)
            inflated[name], changes[name] = _inflate_patches(kernel, patch_size, patches)
        elif name.endswith(TABLE):
            table = _reshape_to_grid(name, value)
            inflated[name], changes[name] = _inflate_table(table, window_size, tables)
    return inflated, changes


def _check_methods(patches: str, tables: str) -> None:
    if patches not in PATCHES:
        raise unknown_name("way of inflating patches", patches, PATCHES)
    if tables not in TABLES:
        raise unknown_name("way of inflating tables", tables, TABLES)


def _inflate_patches(kernel: np.ndarray, patch_size: Size, method: str) -> tuple[np.ndarray, str]:
    frames, *sizes = patch_size
    kernel, resized = resize_patch(kernel, tuple(sizes))
    if method == "inflate":
        change = f"{resized}repeated over {frames} frames and divided by {frames}"
        return np.repeat(kernel[:, :, None] / frames, frames, axis=2), change
    centred = np.zeros((*kernel.shape[:2], frames, *sizes), kernel.dtype)
    centred[:, :, frames // 2] = kernel
    return centred, f"{resized}put into frame {frames // 2} of {frames}, the others zero"


def _inflate_table(grid: np.ndarray, window_size: Size, method: str) -> tuple[np.ndarray, str]:
    time, height, width = window_size
    offsets = 2 * time - 1
    slices, resized = resize_slices(grid, (height, width))
    if method == "duplicate":
        video = np.broadcast_to(slices, (offsets, *slices.shape[1:]))
        change = f"{resized}repeated for {offsets} offsets in time"
    else:
        video = np.zeros((offsets, *slices.shape[1:]), grid.dtype)
        video[time - 1] = slices[0]
        change = f"{resized}put at offset 0 in time, zero at the other {offsets - 1}"
    return video.reshape(-1, grid.shape[-1]), change


def _reshape_to_grid(name: str, table: np.ndarray) -> np.ndarray:
    """Reshape a table `[(2w-1)^2, heads]` to `[1, 2w-1, 2w-1, heads]`, in float32."""
    side = round(table.shape[0] ** 0.5) if table.ndim == 2 else 0
    if side % 2 == 0 or side * side != table.shape[0]:
        raise InputError(
            f"Expected the bias table of a square 2D window, of (2w-1)^2 rows, but {name!r} has "
            f"shape {table.shape}: take a checkpoint of an image Swin with square windows."
        )
    return np.asarray(table, np.float32).reshape(1, side, side, table.shape[1])


def resize_slices(grid: np.ndarray, window: tuple[int, int]) -> tuple[np.ndarray, str]:
    """Resize a table `[temporal offsets, rows, columns, heads]` to a spatial window (h, w).

    The result has 2h-1 rows and 2w-1 columns.
    """
    sizes = (2 * window[0] - 1, 2 * window[1] - 1)
    if grid.shape[1:3] == sizes:
        return grid, ""
    before = f"{(grid.shape[1] + 1) // 2}x{(grid.shape[2] + 1) // 2}"
    resized = resize_bicubic(grid.transpose(0, 3, 1, 2), sizes).transpose(0, 2, 3, 1)
    return resized, f"resized by bicubic from window {before} to {window[0]}x{window[1]}, "


def resize_patch(kernel: np.ndarray, sizes: tuple[int, int]) -> tuple[np.ndarray, str]:
    """Resize a patch kernel `[..., H, W]` to `sizes`, in pixels.

    The bicubic result is divided by the growth of the area, so that the embedding of a patch of
    one colour stays about the same.

    Raises:
      InputError: the kernel is empty.
    """
    height, width = kernel.shape[-2:]
    if (height, width) == sizes:
        return kernel, ""
    if not kernel.size:
        raise InputError(
            f"Expected a patch kernel but {PATCH_KERNEL!r} has shape {kernel.shape}, which is "
            f"empty: take another checkpoint."
        )
    scale = height * width / (sizes[0] * sizes[1])
    change = f"resized by bicubic from {height}x{width} to {sizes[0]}x{sizes[1]} pixels, "
    return resize_bicubic(np.asarray(kernel, np.float32), sizes) * scale, change
