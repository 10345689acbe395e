"""Block specs of the TPU attention kernels: the block of each array that a grid step works on."""

import jax

from vswin_jax.kernels.attention_tpu_tiling import AttentionTiling
from vswin_jax.runtime.lazy_module import LazyModule

pl = LazyModule("jax.experimental.pallas")


class AttentionBlockSpecs:
    """Block specs of each array, for the grid (split, group, tile, step[, part])."""

    def __init__(self, tiling: AttentionTiling) -> None:
        self.tiling, self.sizes = tiling, tiling.sizes

    def _window(self, split: jax.Array, step: jax.Array) -> jax.Array:
        return split * self.tiling.steps + step

    def qkv(self) -> "list[pl.BlockSpec]":
        """Return the spec of a packed block, or those of a group's queries, keys and values.

        The latter are three blocks of the same array, so that qkv is never cut into three in HBM.
        """
        tiling, tokens = self.tiling, self.sizes.tokens
        if tiling.packed:
            shape = (tiling.block_windows, tokens, 3 * self.sizes.channels)
            return [pl.BlockSpec(shape, lambda s, g, t, i, *_: (self._window(s, i), 0, 0))]
        queries = (tiling.block_windows, tiling.rows, tiling.lanes)
        keys = (tiling.block_windows, tokens, tiling.lanes)
        groups = tiling.groups
        return [
            pl.BlockSpec(queries, lambda s, g, t, i, *_: (self._window(s, i), t, g)),
            pl.BlockSpec(keys, lambda s, g, t, i, *_: (self._window(s, i), 0, groups + g)),
            pl.BlockSpec(keys, lambda s, g, t, i, *_: (self._window(s, i), 0, 2 * groups + g)),
        ]

    def bias(self) -> "pl.BlockSpec":
        """Return the spec of a group's bias, whose rows are a tile of queries.

        It changes only between groups and tiles, so one buffer is enough.
        """
        shape = (self.tiling.block_heads, self.tiling.rows, self.sizes.tokens)
        return pl.BlockSpec(shape, lambda s, g, t, *_: (g, t, 0), pipeline_mode=pl.Buffered(1))

    def bias_grad(self) -> "pl.BlockSpec":
        """Return the spec of the same block in `[splits, heads, N, N]`."""
        shape = (None, self.tiling.block_heads, self.tiling.rows, self.sizes.tokens)
        return pl.BlockSpec(shape, lambda s, g, t, *_: (s, g, t, 0), pipeline_mode=pl.Buffered(1))

    def segment_ids(self) -> "pl.BlockSpec":
        """Return the spec of the ids of a block's windows, in `[period, 1, N]`."""
        tiling = self.tiling
        repeat = self.sizes.period // tiling.block_windows
        shape = (tiling.block_windows, 1, self.sizes.tokens)
        return pl.BlockSpec(shape, lambda s, g, t, i, *_: (self._window(s, i) % repeat, 0, 0))

    def out(self) -> "pl.BlockSpec":
        """Return the spec of a tile of queries in `[G, N, C]`."""
        shape = (self.tiling.block_windows, self.tiling.rows, self.tiling.lanes)
        return pl.BlockSpec(shape, lambda s, g, t, i, *_: (self._window(s, i), t, g))

    def key_grad(self) -> "pl.BlockSpec":
        """Return the spec of one tile's part of a gradient, in `[tiles, G, N, C]`."""
        shape = (None, self.tiling.block_windows, self.sizes.tokens, self.tiling.lanes)
        return pl.BlockSpec(shape, lambda s, g, t, i, *_: (t, self._window(s, i), 0, g))

    def qkv_grad(self) -> "pl.BlockSpec":
        """Return the spec of a packed gradient, or of a group's queries, keys or values by part."""
        if self.tiling.packed:
            return self.qkv()[0]
        shape = (self.tiling.block_windows, self.sizes.tokens, self.tiling.lanes)
        groups = self.tiling.groups
        return pl.BlockSpec(
            shape, lambda s, g, t, i, part: (self._window(s, i), 0, part * groups + g)
        )
