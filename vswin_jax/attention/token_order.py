"""The orders in which the tokens of a grid can lie, and the one movement from any to any other.

Norms, linear layers and residuals do not care where a token lies. So between blocks tokens stay in
windows, and only the step from regular to shifted windows, or back, moves them: one gather of rows
of C channels, where partitioning and merging around every attention are transposes and rolls.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from vswin_jax.attention.bias import Size
from vswin_jax.attention.geometry import WindowGeometry
from vswin_jax.runtime.target_platform import targets_gpu


@dataclass(frozen=True)
class TokenOrder:
    """Tokens of a grid, box by box; `[B, *shape, C]` is an array of them.

    Boxes run depth first, then height, then width.

    Attributes:
      grid: tokens on each axis, whole boxes.
      box: the extent of a box on each axis.
      shift: the cyclic shift, towards the start, before the grid is cut into boxes.
      inner: the axes within a box, the slowest first.
      shape: of an array of all tokens, whatever is convenient.
    """

    grid: Size
    box: Size
    shift: Size
    inner: Size
    shape: tuple[int, ...]

    @classmethod
    def of_map(cls, grid: Size) -> "TokenOrder":
        """`[B, D, H, W, C]`: one box."""
        return cls(grid, grid, (0, 0, 0), (0, 1, 2), grid)

    @classmethod
    def of_windows(cls, geometry: WindowGeometry) -> "TokenOrder":
        """`[B, windows, N, C]`, as `geometry.partition` cuts a grid that needs no padding."""
        shape = (geometry.num_windows, geometry.tokens)
        return cls(geometry.grid, geometry.window, geometry.shift, (0, 1, 2), shape)

    @classmethod
    def of_quads(cls, grid: Size) -> "TokenOrder":
        """`[B, D, H / 2, W / 2, 4, C]`: 2 x 2 neighbours in space, height varying fastest."""
        depth, height, width = grid
        shape = (depth, height // 2, width // 2, 4)
        return cls(grid, (1, 2, 2), (0, 0, 0), (0, 2, 1), shape)

    @cached_property
    def counts(self) -> Size:
        """Boxes along each axis."""
        return tuple(size // extent for size, extent in zip(self.grid, self.box, strict=True))

    def place(self, axis: int, at: np.ndarray) -> np.ndarray:
        """What the coordinate `at` along `axis` adds to the row of a token; int32."""
        box, counts = self.box, self.counts
        index = (at - self.shift[axis]) % self.grid[axis]
        slower = self.inner[self.inner.index(axis) + 1 :]
        within = int(np.prod([box[a] for a in slower], dtype=int))
        boxes = int(np.prod(counts[axis + 1 :], dtype=int)) * int(np.prod(box))
        return (index // box[axis] * boxes + index % box[axis] * within).astype(np.int32)

    def coordinates(self, axis: int) -> np.ndarray:
        """The coordinate of a token along `axis`, by box and by place in it: `[count, extent]`."""
        index = np.arange(self.grid[axis]).reshape(self.counts[axis], self.box[axis])
        return (index + self.shift[axis]) % self.grid[axis]

    def rows_in(self, source: "TokenOrder") -> jax.Array:
        """For each token of this order its row in `source`, int32 `[tokens]`.

        Each axis adds its part on its own, so the program holds three short constants and not one
        as long as the grid.
        """
        total = jnp.zeros((), jnp.int32)
        for axis in range(3):
            part = source.place(axis, self.coordinates(axis))
            shape = [1] * 6
            shape[axis], shape[3 + self.inner.index(axis)] = part.shape
            total = total + part.reshape(shape)
        return total.reshape(-1)

    def lies_as(self, other: "TokenOrder") -> bool:
        """Whether every token has the same row in both."""
        coordinates = [(axis, self.coordinates(axis)) for axis in range(3)]
        return all(
            np.array_equal(self.place(axis, at), other.place(axis, at)) for axis, at in coordinates
        )


def reorder(x: jax.Array, source: TokenOrder, target: TokenOrder) -> jax.Array:
    """`[B, *source.shape, C]` to `[B, *target.shape, C]`, of the same grid.

    The gradient takes the way back: a gather too, not the scatter that a gather's would be.
    """
    if source.lies_as(target):
        return x.reshape(len(x), *target.shape, x.shape[-1])
    return _reorder(source, target, x)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _reorder(source: TokenOrder, target: TokenOrder, x: jax.Array) -> jax.Array:
    batch, channels = x.shape[0], x.shape[-1]
    moved = _rows(x.reshape(batch, -1, channels), target.rows_in(source))
    return moved.reshape(batch, *target.shape, channels)


# Clips as an axis that indices have too: else a GPU puts tokens before clips, and transposes.
_BY_CLIP = jax.lax.GatherDimensionNumbers(
    offset_dims=(2,),
    collapsed_slice_dims=(1,),
    start_index_map=(1,),
    operand_batching_dims=(0,),
    start_indices_batching_dims=(0,),
)


def _rows(x: jax.Array, rows: jax.Array) -> jax.Array:
    """Those rows, each once, of each clip of `[B, tokens, C]`."""
    if not targets_gpu():
        return x.at[:, rows].get(mode="promise_in_bounds", unique_indices=True)
    of_clips = jnp.broadcast_to(rows[:, None], (len(x), len(rows), 1))
    size = (1, 1, x.shape[-1])
    return jax.lax.gather(
        x, of_clips, _BY_CLIP, size, unique_indices=True, mode="promise_in_bounds"
    )


def _reorder_forward(
    source: TokenOrder, target: TokenOrder, x: jax.Array
) -> tuple[jax.Array, None]:
    return _reorder(source, target, x), None


def _reorder_backward(
    source: TokenOrder, target: TokenOrder, _: None, gradient: jax.Array
) -> tuple[jax.Array]:
    return (_reorder(target, source, gradient),)


_reorder.defvjp(_reorder_forward, _reorder_backward)
