"""The learned relative position bias, built from its table without a gather.

The bias of a query and a key depends only on their offset, so along each axis it is a Toeplitz
matrix of the table: copies, reshapes and slices build it, and its gradient is sums and pads where
a gather would bring a scatter.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from vswin_jax.attention.geometry import Size, WindowGeometry

RelativePosition = Literal["reference", "exact"]


def table_rows(window: Size) -> int:
    """Rows of the table: one for each offset (2d-1)(2h-1)(2w-1)."""
    depth, height, width = window
    return (2 * depth - 1) * (2 * height - 1) * (2 * width - 1)


def _toeplitz(table: jax.Array, axis: int, extent: int) -> jax.Array:
    """Replaces `axis` (offsets -(full-1)..full-1) by two: [query, key], each `extent` long.

    `out[i, j] = table[full - 1 + i - j]`. Row i of the result is the reversed middle of the table
    moved right by i, so the rows of a cyclic tiling with period `2 extent`, read with a pitch of
    `2 extent - 1`, are all the rows at once.
    """
    full = (table.shape[axis] + 1) // 2
    middle = jax.lax.slice_in_dim(table, full - extent, full - 1 + extent, axis=axis)
    middle = jnp.moveaxis(jnp.flip(middle, axis), axis, 0)
    rest = middle.shape[1:]
    # Keys 0..extent-1 of query 0 first, then one cell never read, then the negative keys.
    period = jnp.concatenate([middle[extent - 1 :], middle[:1], middle[: extent - 1]])
    tiled = jnp.broadcast_to(period, (extent, *period.shape)).reshape(-1, *rest)
    rows = tiled[: extent * (2 * extent - 1)].reshape(extent, 2 * extent - 1, *rest)
    return jnp.moveaxis(rows[:, :extent], (0, 1), (axis, axis + 1))


def _expand(table: jax.Array, full: Size, extent: Size) -> jax.Array:
    """`[rows, heads]` of a `full` window to `[heads, N, N]` of a window of `extent`."""
    heads = table.shape[-1]
    grid = table.T.reshape(heads, *(2 * n - 1 for n in full))
    # The last axis first, so that the axes before it keep their numbers.
    for axis in (3, 2, 1):
        grid = _toeplitz(grid, axis, extent[axis - 1])
    tokens = extent[0] * extent[1] * extent[2]
    return grid.transpose(0, 1, 3, 5, 2, 4, 6).reshape(heads, tokens, tokens)


def relative_position_bias(
    table: jax.Array,
    geometry: WindowGeometry,
    relative_position: RelativePosition = "reference",
) -> jax.Array:
    """Bias `[heads, N, N]` (query, key) from a table `[rows, heads]`.

    With `"reference"` a clamped window takes the bias of the first N tokens of the full window, as
    the reference does by slicing its index. That is the true geometry when only time is clamped;
    when height or width is clamped, its offsets are those of other tokens, and weights trained
    that way expect it. `"exact"` uses the true offsets always.
    """
    if relative_position == "exact":
        return _expand(table, geometry.full_window, geometry.window)
    height, width = geometry.full_window[1:]
    slices = -(-geometry.tokens // (height * width))
    bias = _expand(table, geometry.full_window, (slices, height, width))
    return bias[:, : geometry.tokens, : geometry.tokens]
