"""A 2D Swin made 3D, as section 3.4 of the paper and `inflate_weights` of the reference do.

What happens to a tensor is said in words beside it, for the report.
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

# The new tensors, and what was done to those that changed.
Changed = tuple[dict[str, np.ndarray], dict[str, str]]


def is_2d(state: Mapping[str, np.ndarray]) -> bool:
    """Whether a canonical state_dict is that of an image model: its patches have no time axis."""
    return PATCH_KERNEL in state and state[PATCH_KERNEL].ndim == 4


def inflate(
    state: Mapping[str, np.ndarray],
    patch_size: Size,
    window_size: Size,
    *,
    patches: str = "inflate",
    tables: str = "duplicate",
) -> Changed:
    """A canonical 3D state_dict from a 2D one, and how each changed tensor was made.

    Args:
      state: canonical, of an image model; tensors that need no change are returned as they are,
        the others in float32.
      patch_size: (time, height, width) of the 3D model, in frames and pixels.
      window_size: (time, height, width) of the 3D model, in tokens.
      patches: "inflate" repeats the patch kernel over time and divides it by the repeats;
        "center" puts it into the middle frame and zeros into the others.
      tables: "duplicate" repeats each bias table for every offset in time; "center" keeps it for
        offset 0 and has zeros for the others. With "duplicate" and either kind of patches, a video
        that stands still gives the maps of the image.

    Tables of another 2D window are resized first by PyTorch's bicubic (the reference's rule), and
    so is a kernel of another 2D patch, which the reference refuses: see `resize_patch`.

    Raises:
      InputError: an unknown way, or tensors that are no patch kernel or no table.
    """
    for kind, asked, known in (("patches", patches, PATCHES), ("tables", tables, TABLES)):
        if asked not in known:
            raise unknown_name(f"way of inflating {kind}", asked, known)
    inflated, how = dict(state), {}
    for name, value in state.items():
        if name == PATCH_KERNEL:
            kernel = np.asarray(value, np.float32)
            inflated[name], how[name] = _inflate_patches(kernel, patch_size, patches)
        elif name.endswith(TABLE):
            table = _as_square(name, value)
            inflated[name], how[name] = _inflate_table(table, window_size, tables)
    return inflated, how


def _inflate_patches(kernel: np.ndarray, patch_size: Size, way: str) -> tuple[np.ndarray, str]:
    frames, *sizes = patch_size
    kernel, resized = resize_patch(kernel, tuple(sizes))
    if way == "inflate":
        how = f"{resized}repeated over {frames} frames and divided by {frames}"
        return np.repeat(kernel[:, :, None] / frames, frames, axis=2), how
    centred = np.zeros((*kernel.shape[:2], frames, *sizes), kernel.dtype)
    centred[:, :, frames // 2] = kernel
    return centred, f"{resized}put into frame {frames // 2} of {frames}, the others zero"


def _inflate_table(grid: np.ndarray, window_size: Size, way: str) -> tuple[np.ndarray, str]:
    time, height, width = window_size
    offsets = 2 * time - 1
    slices, resized = resize_slices(grid, (height, width))
    if way == "duplicate":
        video = np.broadcast_to(slices, (offsets, *slices.shape[1:]))
        how = f"{resized}repeated for {offsets} offsets in time"
    else:
        video = np.zeros((offsets, *slices.shape[1:]), grid.dtype)
        video[time - 1] = slices[0]
        how = f"{resized}put at offset 0 in time, zero at the other {offsets - 1}"
    return video.reshape(-1, grid.shape[-1]), how


def _as_square(name: str, table: np.ndarray) -> np.ndarray:
    """`[(2w-1)^2, heads]` as `[1, 2w-1, 2w-1, heads]`, float32."""
    side = round(table.shape[0] ** 0.5) if table.ndim == 2 else 0
    if side % 2 == 0 or side * side != table.shape[0]:
        raise InputError(
            f"Expected the bias table of a square 2D window, of (2w-1)^2 rows, but {name!r} has "
            f"shape {table.shape}: take a checkpoint of an image Swin with square windows."
        )
    return np.asarray(table, np.float32).reshape(1, side, side, table.shape[1])


def resize_slices(grid: np.ndarray, window: tuple[int, int]) -> tuple[np.ndarray, str]:
    """Bias tables `[offsets in time, 2h-1, 2w-1, heads]` for another spatial window (h, w)."""
    sizes = (2 * window[0] - 1, 2 * window[1] - 1)
    if grid.shape[1:3] == sizes:
        return grid, ""
    before = f"{(grid.shape[1] + 1) // 2}x{(grid.shape[2] + 1) // 2}"
    resized = resize_bicubic(grid.transpose(0, 3, 1, 2), sizes).transpose(0, 2, 3, 1)
    return resized, f"resized by bicubic from window {before} to {window[0]}x{window[1]}, "


def resize_patch(kernel: np.ndarray, sizes: tuple[int, int]) -> tuple[np.ndarray, str]:
    """A patch kernel `[..., H, W]` for patches of other `sizes`, in pixels.

    It is resized by bicubic and divided by the growth of its area, so that an evenly coloured
    patch keeps about the size of its embedding.

    Raises:
      InputError: an empty kernel.
    """
    height, width = kernel.shape[-2:]
    if (height, width) == sizes:
        return kernel, ""
    if not kernel.size:
        raise InputError(
            f"Expected a patch kernel but {PATCH_KERNEL!r} has shape {kernel.shape}, which is "
            f"empty: take another checkpoint."
        )
    share = height * width / (sizes[0] * sizes[1])
    how = f"resized by bicubic from {height}x{width} to {sizes[0]}x{sizes[1]} pixels, "
    return resize_bicubic(np.asarray(kernel, np.float32), sizes) * share, how
