"""Where the windows lie: sizes, shifts and regions, computed once in NumPy from static shapes.

Source: Video Swin Transformer, section 3.1, and the reference's `get_window_size`,
`window_partition`, `window_reverse` and `compute_mask`. All sizes are in tokens, as
(depth, height, width), where depth is time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from vswin_jax.attention.bias import RelativePosition, Size, relative_position_bias

# From qkv [B, windows, N, 3, heads, dim], a bias table and region ids [windows, N], None for one
# region, to [B, windows, N, heads, dim].
Attend = Callable[[jax.Array, jax.Array, jax.Array | np.ndarray | None], jax.Array]
# `jnp.roll`, or what does the same where the rest of the clip is on other devices.
Roll = Callable[[jax.Array, Size, tuple[int, ...]], jax.Array]


@dataclass(frozen=True)
class WindowGeometry:
    """The windows of one block over one grid of tokens.

    Attributes:
      grid: tokens on each axis.
      full_window: the window that the model was built for; its bias table has this extent.
      window: `full_window`, clamped on each axis to the grid.
      shift: the cyclic shift; 0 on every axis where the window covers the grid.
    """

    grid: Size
    full_window: Size
    window: Size
    shift: Size

    @classmethod
    def create(cls, grid: Size, window: Size, shift: Size) -> "WindowGeometry":
        """Clamps `window` to `grid`, axis by axis, and drops the shift of each clamped axis."""
        covered = tuple(size <= extent for size, extent in zip(grid, window, strict=True))
        clamped = tuple(map(min, grid, window))
        shift = tuple(0 if whole else s for whole, s in zip(covered, shift, strict=True))
        return cls(tuple(grid), tuple(window), clamped, shift)

    @property
    def tokens(self) -> int:
        """Tokens in a window."""
        return int(np.prod(self.window))

    @property
    def counts(self) -> Size:
        """Windows along each axis."""
        return tuple(
            -(-size // extent) for size, extent in zip(self.grid, self.window, strict=True)
        )

    @property
    def num_windows(self) -> int:
        """Windows over the padded grid."""
        return int(np.prod(self.counts))

    @property
    def padded(self) -> Size:
        """The grid, grown at the end of each axis to whole windows."""
        return tuple(n * extent for n, extent in zip(self.counts, self.window, strict=True))

    @property
    def is_shifted(self) -> bool:
        """Whether any axis is shifted, hence whether regions matter."""
        return any(self.shift)

    @cached_property
    def region_ids(self) -> np.ndarray | None:
        """Which tokens may attend to each other: equal ids, int8 `[windows, tokens]`.

        None where nothing is shifted: then every token of a window sees all the others. Padding
        is not masked, as in the reference. At most 8 regions meet in one window, so the ids are
        the bits (past the seam or not) of the three axes.
        """
        if not self.is_shifted:
            return None
        ids = np.zeros(self.padded, np.int8)
        for axis, (size, shift) in enumerate(zip(self.padded, self.shift, strict=True)):
            past_seam = np.arange(size) >= size - shift if shift else np.zeros(size, bool)
            ids += np.expand_dims(past_seam << axis, [a for a in range(3) if a != axis]).astype(
                np.int8
            )
        blocks = ids.reshape(
            [n for pair in zip(self.counts, self.window, strict=True) for n in pair]
        )
        return blocks.transpose(0, 2, 4, 1, 3, 5).reshape(self.num_windows, self.tokens)

    def bias(self, table: jax.Array, relative_position: RelativePosition) -> jax.Array:
        """That of a window, `[heads, N, N]` (query, key): see `relative_position_bias`."""
        return relative_position_bias(table, self.full_window, self.window, relative_position)

    def partition(self, x: jax.Array, roll: Roll = jnp.roll) -> jax.Array:
        """Pads, shifts and cuts `[B, D, H, W, C]` into `[B, windows, tokens, C]`.

        Padding is zeros at the end of each axis. Windows and the tokens within them run depth
        first, then height, then width.
        """
        batch, channels = x.shape[0], x.shape[-1]
        growth = [(0, p - g) for p, g in zip(self.padded, self.grid, strict=True)]
        if any(after for _, after in growth):
            x = jnp.pad(x, [(0, 0), *growth, (0, 0)])
        if self.is_shifted:
            x = roll(x, tuple(-s for s in self.shift), (1, 2, 3))
        (nd, nh, nw), (wd, wh, ww) = self.counts, self.window
        x = x.reshape(batch, nd, wd, nh, wh, nw, ww, channels)
        return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(
            batch, self.num_windows, self.tokens, channels
        )

    def merge(self, windows: jax.Array, roll: Roll = jnp.roll) -> jax.Array:
        """The inverse of `partition`: `[B, windows, tokens, C]` to `[B, D, H, W, C]`."""
        batch, channels = windows.shape[0], windows.shape[-1]
        x = windows.reshape(batch, *self.counts, *self.window, channels)
        x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(batch, *self.padded, channels)
        if self.is_shifted:
            x = roll(x, self.shift, (1, 2, 3))
        depth, height, width = self.grid
        return x[:, :depth, :height, :width]

    def attend(self, attend: Attend, qkv: jax.Array, table: jax.Array) -> jax.Array:
        """`attend` on all windows, with their region ids."""
        return attend(qkv, table, self.region_ids)

    def map_in_order(
        self, function: Callable[[jax.Array], jax.Array], windows: jax.Array
    ) -> jax.Array:
        """`function`, element by element, of `[B, windows, ...]` with the windows in their order.

        For random draws, which go by the place of an element.
        """
        return function(windows)
