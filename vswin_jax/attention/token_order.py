"""Orders in which an array holds the tokens of a grid, and the gather from one order to another.

Norms, linear layers and residuals work on each token alone. So between blocks tokens stay in window
order, and only the step from regular to shifted windows, or back, moves them. That is one gather of
rows of C channels, instead of transposes and rolls before and after every attention.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, Shaped

from vswin_jax.attention.bias import Size
from vswin_jax.attention.geometry import WindowGeometry
from vswin_jax.runtime.target_platform import targets_gpu


@dataclass(frozen=True)
class TokenOrder:
    """An order of the tokens of a grid, box by box, in an array `[B, *shape, C]`.

    Boxes are in raster order: depth first, then height, then width.

    Attributes:
      grid: tokens on each axis, whole boxes.
      box: the extent of a box on each axis.
      shift: the cyclic shift, towards the start, before the grid is cut into boxes.
      inner: the axes within a box, the slowest first.
      shape: the axes of the array between batch and channels.
    """

    grid: Size
    box: Size
    shift: Size
    inner: Size
    shape: tuple[int, ...]

    @classmethod
    def raster_order(cls, grid: Size) -> "TokenOrder":
        """Build the order of `[B, D, H, W, C]`: the whole grid is one box."""
        return cls(grid, box=grid, shift=(0, 0, 0), inner=(0, 1, 2), shape=grid)

    @classmethod
    def window_order(cls, geometry: WindowGeometry) -> "TokenOrder":
        """Build the order `[B, windows, N, C]` of `geometry.partition`, for an unpadded grid."""
        return cls(
            geometry.grid,
            box=geometry.window,
            shift=geometry.shift,
            inner=(0, 1, 2),
            shape=(geometry.num_windows, geometry.tokens),
        )

    @classmethod
    def patch_merging_order(cls, grid: Size) -> "TokenOrder":
        """Build the order `[B, D, H / 2, W / 2, 4, C]` of patch merging.

        The last four are 2 x 2 neighbours in space, height varying fastest.
        """
        depth, height, width = grid
        shape = (depth, height // 2, width // 2, 4)
        return cls(grid, box=(1, 2, 2), shift=(0, 0, 0), inner=(0, 2, 1), shape=shape)

    @cached_property
    def counts(self) -> Size:
        """Boxes along each axis."""
        return tuple(size // extent for size, extent in zip(self.grid, self.box, strict=True))

    def row_offsets(
        self, axis: int, coordinates: Shaped[np.ndarray, "*shape"]
    ) -> Int32[np.ndarray, "*shape"]:
        """Return the part of a token's row that depends on its coordinate along `axis`.

        The row of a token, its index in this order, is the sum of the parts of the three axes.
        """
        box, counts = self.box, self.counts
        index = (coordinates - self.shift[axis]) % self.grid[axis]
        faster = self.inner[self.inner.index(axis) + 1 :]
        token_stride = int(np.prod([box[a] for a in faster], dtype=int))
        box_stride = int(np.prod(counts[axis + 1 :], dtype=int)) * int(np.prod(box))
        rows = index // box[axis] * box_stride + index % box[axis] * token_stride
        return rows.astype(np.int32)

    def coordinates(self, axis: int) -> Shaped[np.ndarray, "boxes extent"]:
        """Return the coordinates along `axis` of this order's tokens, by box and within a box."""
        index = np.arange(self.grid[axis]).reshape(self.counts[axis], self.box[axis])
        return (index + self.shift[axis]) % self.grid[axis]

    def rows_in(self, source: "TokenOrder") -> Int32[Array, " tokens"]:
        """Return the row in `source` of each token of this order.

        The offsets of each axis are added on the device, so that the program holds three short
        constants and not one as long as the grid.
        """
        total = jnp.zeros((), jnp.int32)
        for axis in range(3):
            part = source.row_offsets(axis, self.coordinates(axis))
            shape = [1] * 6
            shape[axis], shape[3 + self.inner.index(axis)] = part.shape
            total = total + part.reshape(shape)
        return total.reshape(-1)

    def is_same_order(self, other: "TokenOrder") -> bool:
        """Return True if every token has the same row in both orders."""
        coordinates = [(axis, self.coordinates(axis)) for axis in range(3)]
        return all(
            np.array_equal(self.row_offsets(axis, values), other.row_offsets(axis, values))
            for axis, values in coordinates
        )


def reorder(
    x: Shaped[Array, "B *source_shape C"], source: TokenOrder, target: TokenOrder
) -> Shaped[Array, "B *target_shape C"]:
    """Move tokens from one order to another order of the same grid.

    The gradient is the opposite gather, where that of a gather would be a scatter.
    """
    if source.is_same_order(target):
        return x.reshape(len(x), *target.shape, x.shape[-1])
    return _reorder(source, target, x)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _reorder(source: TokenOrder, target: TokenOrder, x: jax.Array) -> jax.Array:
    batch, channels = x.shape[0], x.shape[-1]
    moved = _gather_rows(x.reshape(batch, -1, channels), target.rows_in(source))
    return moved.reshape(batch, *target.shape, channels)


# Clips are a batch axis of the indices too: otherwise XLA for GPUs puts tokens before clips, and
# transposes.
_BATCHED_GATHER = jax.lax.GatherDimensionNumbers(
    offset_dims=(2,),
    collapsed_slice_dims=(1,),
    start_index_map=(1,),
    operand_batching_dims=(0,),
    start_indices_batching_dims=(0,),
)


def _gather_rows(x: jax.Array, rows: jax.Array) -> jax.Array:
    """Gather the given rows, each of which occurs once, of every clip of `[B, tokens, C]`."""
    if not targets_gpu():
        return x.at[:, rows].get(mode="promise_in_bounds", unique_indices=True)
    indices = jnp.broadcast_to(rows[:, None], (len(x), len(rows), 1))
    return jax.lax.gather(
        x,
        indices,
        _BATCHED_GATHER,
        slice_sizes=(1, 1, x.shape[-1]),
        unique_indices=True,
        mode="promise_in_bounds",
    )


def _fwd(source: TokenOrder, target: TokenOrder, x: jax.Array) -> tuple[jax.Array, None]:
    return _reorder(source, target, x), None


def _bwd(source: TokenOrder, target: TokenOrder, _: None, out_grad: jax.Array) -> tuple[jax.Array]:
    return (_reorder(target, source, out_grad),)


_reorder.defvjp(_fwd, _bwd)
