"""The learned relative position bias, built from its table without a gather.

The bias of a query and a key depends only on their offset, so along each axis it is a Toeplitz
matrix of the table. Slices of the table build it; their gradient is a sum of padded arrays, where
the gradient of a gather would be a scatter.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from vswin_jax.runtime.target_platform import target_platform

# Tokens as (depth, height, width), where depth is time.
Size = tuple[int, int, int]
RelativePosition = Literal["reference", "exact"]


def table_rows(window: Size) -> int:
    """Return the number of rows of the table, one for each offset: (2d-1)(2h-1)(2w-1)."""
    depth, height, width = window
    return (2 * depth - 1) * (2 * height - 1) * (2 * width - 1)


def relative_position_bias(
    table: Float[Array, "rows heads"],
    full_window: Size,
    window: Size,
    relative_position: RelativePosition,
) -> Float[Array, "heads N N"]:
    """Return the bias (query, key) of `window` from the table of a `full_window`.

    With `"reference"` a clamped window takes the bias of the first N tokens of the full window, as
    `WindowAttention3D` of the reference does. That is the true geometry if only time is clamped. If
    height or width is clamped, the offsets are those of other tokens, which weights trained that
    way expect. `"exact"` always uses the true offsets.
    """
    if relative_position == "exact":
        return _expand_offsets(table, full_window, window)
    _, height, width = full_window
    tokens = math.prod(window)
    # Whole planes of the full window, as many as hold the first N tokens.
    planes = (-(-tokens // (height * width)), height, width)
    return _expand_offsets(table, full_window, planes)[:, :tokens, :tokens]


def _expand_offsets(table: jax.Array, full_window: Size, window: Size) -> jax.Array:
    """Expand `[rows, heads]` of a `full_window` to `[heads, N, N]` of a smaller `window`.

    In the reversed table, the biases of query i along an axis are the `extent` offsets that start
    i before the middle. Each axis thus becomes the keys in place, and its queries are stacked in
    front of the queries of the axes done before, so nothing is ever transposed.
    """
    heads = table.shape[-1]
    grid = table.T.reshape(heads, *(2 * n - 1 for n in full_window))
    grid = jnp.flip(grid, (1, 2, 3))
    for axis in (-1, -2):
        grid = _stack_queries(grid, axis, full_window[axis], window[axis], keys_per_step=1)
    # Time comes last, over whole planes of keys: a TPU pads the last axis to 128 lanes, and a few
    # keys of a row would cost it as much as all keys of a window.
    plane = window[1] * window[2]
    grid = _keep_keys_in_lanes(grid.reshape(heads, plane, -1))
    grid = _stack_queries(grid, -1, full_window[0], window[0], keys_per_step=plane)
    tokens = window[0] * plane
    return _keep_keys_in_lanes(grid).reshape(heads, tokens, tokens)


def _keep_keys_in_lanes(grid: jax.Array) -> jax.Array:
    """Constrain the layout on a TPU so that the last axis, the keys, stays in the lanes.

    The compiler would keep the heads in the lanes, as in the table: 24 heads take the room of 128.
    """
    if target_platform() != "tpu":
        return grid
    return with_layout_constraint(grid, Layout(tuple(range(grid.ndim))))


def _stack_queries(
    grid: jax.Array, axis: int, full_extent: int, extent: int, keys_per_step: int
) -> jax.Array:
    """Slice the keys of each query along `axis`: `[heads, ...]` to `[heads, extent, ...]`.

    A step of one token along the axis is `keys_per_step` elements of the array's axis.
    """
    starts = range(full_extent - 1, full_extent - 1 - extent, -1)
    keys = [
        jax.lax.slice_in_dim(
            grid, start * keys_per_step, (start + extent) * keys_per_step, axis=grid.ndim + axis
        )
        for start in starts
    ]
    return jnp.stack(keys, axis=1)
