"""Window geometry: sizes, shifts and segment ids, computed in NumPy from static shapes.

Source: Video Swin Transformer, section 3.2, and the reference's `get_window_size`,
`window_partition`, `window_reverse` and `compute_mask`. All sizes are in tokens, as
(depth, height, width), where depth is time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8, Shaped

from vswin_jax.attention.bias import RelativePosition, Size, relative_position_bias

# From qkv [B, windows, N, 3, heads, dim], a bias table, and segment ids [windows, N] or None (each
# window is one segment), to [B, windows, N, heads, dim].
Attend = Callable[[jax.Array, jax.Array, jax.Array | np.ndarray | None], jax.Array]
# `jnp.roll`, or an equivalent for clips that are split over devices.
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
        """Clamp `window` to `grid`, axis by axis, and drop the shift of each clamped axis."""
        covered = tuple(size <= extent for size, extent in zip(grid, window, strict=True))
        clamped = tuple(map(min, grid, window))
        shift = tuple(0 if whole else s for whole, s in zip(covered, shift, strict=True))
        return cls(tuple(grid), tuple(window), window=clamped, shift=shift)

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
    def padded_grid(self) -> Size:
        """The grid, padded at the end of each axis to whole windows."""
        return tuple(n * extent for n, extent in zip(self.counts, self.window, strict=True))

    @property
    def is_shifted(self) -> bool:
        """True if any axis is shifted, so that windows have several segments."""
        return any(self.shift)

    @cached_property
    def segment_ids(self) -> Int8[np.ndarray, "windows N"] | None:
        """Segment ids: only tokens of a window with equal ids attend to each other.

        None without a shift: then every token of a window attends to all others. Padding is not
        masked, as in the reference. An id has one bit for each axis, set beyond the seam of the
        cyclic shift, so at most 8 segments meet in one window.
        """
        if not self.is_shifted:
            return None
        ids = np.zeros(self.padded_grid, np.int8)
        for axis, (size, shift) in enumerate(zip(self.padded_grid, self.shift, strict=True)):
            past_seam = np.arange(size) >= size - shift if shift else np.zeros(size, bool)
            ids += np.expand_dims(past_seam << axis, [a for a in range(3) if a != axis]).astype(
                np.int8
            )
        blocks = ids.reshape(
            [n for pair in zip(self.counts, self.window, strict=True) for n in pair]
        )
        return blocks.transpose(0, 2, 4, 1, 3, 5).reshape(self.num_windows, self.tokens)

    def bias(
        self, table: Float[Array, "rows heads"], relative_position: RelativePosition
    ) -> Float[Array, "heads N N"]:
        """Return the bias (query, key) of a window: see `relative_position_bias`."""
        return relative_position_bias(table, self.full_window, self.window, relative_position)

    def partition(
        self, x: Shaped[Array | np.ndarray, "B D H W C"], roll: Roll = jnp.roll
    ) -> Shaped[Array | np.ndarray, "B windows N C"]:
        """Pad, shift and cut a grid of tokens into windows.

        Padding is zeros at the end of each axis. Windows and the tokens within them are in raster
        order: depth first, then height, then width.
        """
        batch, channels = x.shape[0], x.shape[-1]
        padding = [(0, p - g) for p, g in zip(self.padded_grid, self.grid, strict=True)]
        if any(after for _, after in padding):
            x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
        if self.is_shifted:
            x = roll(x, tuple(-s for s in self.shift), (1, 2, 3))
        (nd, nh, nw), (wd, wh, ww) = self.counts, self.window
        x = x.reshape(batch, nd, wd, nh, wh, nw, ww, channels)
        return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(
            batch, self.num_windows, self.tokens, channels
        )

    def merge(
        self, windows: Shaped[Array | np.ndarray, "B windows N C"], roll: Roll = jnp.roll
    ) -> Shaped[Array | np.ndarray, "B D H W C"]:
        """Return the grid of tokens: the inverse of `partition`."""
        batch, channels = windows.shape[0], windows.shape[-1]
        x = windows.reshape(batch, *self.counts, *self.window, channels)
        x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(batch, *self.padded_grid, channels)
        if self.is_shifted:
            x = roll(x, self.shift, (1, 2, 3))
        depth, height, width = self.grid
        return x[:, :depth, :height, :width]

    def attend(
        self,
        attend: Attend,
        qkv: Float[Array, "B windows N 3 heads dim"],
        table: Float[Array, "rows heads"],
    ) -> Float[Array, "B windows N heads dim"]:
        """Call `attend` on all windows, with their segment ids."""
        return attend(qkv, table, self.segment_ids)

    def apply_in_window_order(
        self,
        function: Callable[[jax.Array], jax.Array],
        windows: Shaped[Array, "B windows *rest"],
    ) -> Shaped[Array, "B windows *rest"]:
        """Apply an elementwise `function` to the windows in the order of `partition`.

        The order matters to random draws, which depend on the position of an element.
        """
        return function(windows)
