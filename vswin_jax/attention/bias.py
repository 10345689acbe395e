"""The learned relative position bias, built from its table without a gather.

The bias of a query and a key depends only on their offset, so along each axis it is a Toeplitz
matrix of the table: slices build it, and its gradient is padded sums where a gather would bring a
scatter.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from vswin_jax.runtime.target_platform import target_platform

# Tokens as (depth, height, width), where depth is time.
Size = tuple[int, int, int]
RelativePosition = Literal["reference", "exact"]


def table_rows(window: Size) -> int:
    """Rows of the table: one for each offset (2d-1)(2h-1)(2w-1)."""
    depth, height, width = window
    return (2 * depth - 1) * (2 * height - 1) * (2 * width - 1)


def _expand(table: jax.Array, full: Size, extent: Size) -> jax.Array:
    """`[rows, heads]` of a `full` window to `[heads, N, N]` of a window of `extent`.

    Along an axis the biases of query i are the run of `extent` offsets that starts i before the
    middle of the reversed table. Each axis therefore becomes the keys in place, and its queries
    gather in front of the queries of the axes done before: nothing is ever transposed.
    """
    heads = table.shape[-1]
    grid = table.T.reshape(heads, *(2 * n - 1 for n in full))
    grid = jnp.flip(grid, (1, 2, 3))
    for axis in (-1, -2):
        grid = _queries(grid, axis, full[axis], extent[axis], 1)
    # Time comes last, over whole planes of keys: a TPU pads the last axis to 128 lanes, and a few
    # keys of a row would cost it as much as all keys of a window.
    plane = extent[1] * extent[2]
    grid = _keys_inside(grid.reshape(heads, plane, -1))
    grid = _keys_inside(_queries(grid, -1, full[0], extent[0], plane))
    tokens = extent[0] * plane
    return grid.reshape(heads, tokens, tokens)


def _keys_inside(grid: jax.Array) -> jax.Array:
    """The same, whose last axis is the one that a TPU has in its lanes.

    Its compiler would keep the heads there, where the table has them: 24 take the room of 128.
    """
    if target_platform() != "tpu":
        return grid
    return with_layout_constraint(grid, Layout(tuple(range(grid.ndim))))


def _queries(grid: jax.Array, axis: int, whole: int, own: int, width: int) -> jax.Array:
    """`[heads, ...]` to `[heads, own, ...]`: each query's run of keys of `width` along `axis`."""
    starts = range(whole - 1, whole - 1 - own, -1)
    runs = [
        jax.lax.slice_in_dim(grid, start * width, (start + own) * width, axis=grid.ndim + axis)
        for start in starts
    ]
    return jnp.stack(runs, axis=1)


def relative_position_bias(
    table: jax.Array, full: Size, window: Size, relative_position: RelativePosition
) -> jax.Array:
    """Bias `[heads, N, N]` (query, key) of `window` from a table `[rows, heads]` of a `full` one.

    With `"reference"` a clamped window takes the bias of the first N tokens of the full window, as
    the reference does by slicing its index. That is the true geometry when only time is clamped;
    when height or width is clamped, its offsets are those of other tokens, and weights trained
    that way expect it. `"exact"` uses the true offsets always.
    """
    if relative_position == "exact":
        return _expand(table, full, window)
    _, height, width = full
    tokens = math.prod(window)
    bias = _expand(table, full, (-(-tokens // (height * width)), height, width))
    return bias[:, :tokens, :tokens]
