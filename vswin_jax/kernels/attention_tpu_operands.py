"""Blocks that both TPU attention kernels read, and the logits and softmax computed from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vswin_jax.kernels.token_arithmetic import CONTRACT_LANES, dot
from vswin_jax.runtime.lazy_module import LazyModule

pl = LazyModule("jax.experimental.pallas")

# Added to the logits between segments: -100 and not -inf, as in `compute_mask` of the reference.
MASK_VALUE = -100.0

# Axis of the grid over tiles of queries.
TILE_AXIS = 2

# A reference to a block in VMEM, which is read and written by indexing.
Ref = Any


@dataclass(frozen=True)
class HeadChunk:
    """Heads whose lanes are multiplied together, 128 lanes at most.

    Attributes:
      first: index of the first head in the block of heads.
      heads: number of heads.
      lanes: first lane in a block of queries (or keys, values, outputs).
      width: number of lanes.
    """

    first: int
    heads: int
    lanes: int
    width: int


@dataclass(frozen=True)
class AttentionBlock:
    """Static description of the blocks that one program of a kernel works on.

    Attributes:
      windows: number of windows in the block.
      rows: number of queries of each window in the block.
      tokens: number of keys of each window.
      dim: number of lanes of a head.
      scale: factor on the queries.
      packed: channels of all heads if queries, keys and values are side by side in one block; 0
        if each has a block of its own.
      chunks: the heads of the block, in chunks.
      has_segments: True if windows have segments, between which the logits are masked.
    """

    windows: int
    rows: int
    tokens: int
    dim: int
    scale: float
    packed: int
    chunks: tuple[HeadChunk, ...]
    has_segments: bool

    @property
    def is_tiled(self) -> bool:
        """True if the block has only some of a window's queries."""
        return self.rows < self.tokens


def for_each(count: int, function: Callable[[jax.Array], None]) -> None:
    """Call `function(index)` for each index in a loop on the chip, without unrolling it."""
    lax.fori_loop(0, count, lambda index, _: function(index), None)


@dataclass(frozen=True)
class Operands:
    """Blocks that both kernels read, and the scratch buffers of the mask.

    Attributes:
      block: static description of the blocks.
      qkv: one packed block, or the blocks of queries, keys and values.
      bias: `[heads, rows, N]`.
      segment_ids: `[windows, 1, N]`, or None.
      id_columns: scratch `[N, 8]`, the segment ids as columns.
      mask: scratch `[rows, N]`, added to the logits of the current window.
      first_row: first query of this program.
    """

    block: AttentionBlock
    qkv: Sequence[Ref]
    bias: Ref
    segment_ids: Ref | None
    id_columns: Ref | None
    mask: Ref | None
    first_row: jax.Array | int

    @classmethod
    def split_from(
        cls, block: AttentionBlock, refs: Sequence[Ref]
    ) -> "tuple[Operands, Sequence[Ref]]":
        """Split a kernel's arguments into the operands (the first and last) and all others."""
        count = 1 if block.packed else 3
        qkv, bias, rest = refs[:count], refs[count], refs[count + 1 :]
        # Read here: Pallas' interpreter supports `program_id` only outside of loops and branches.
        first_row = pl.program_id(TILE_AXIS) * block.rows if block.is_tiled else 0
        ids, id_columns, mask = None, None, None
        if block.has_segments:
            ids, *rest, id_columns, mask = rest
        operands = cls(
            block, qkv, bias, segment_ids=ids, id_columns=id_columns, mask=mask, first_row=first_row
        )
        return operands, rest

    def load(self, window: jax.Array, chunk: HeadChunk) -> list[jax.Array]:
        """Return queries, keys and values of a chunk's heads, `[rows or N, width]` each."""
        block = self.block
        if not block.packed:
            return [ref[window, :, pl.ds(chunk.lanes, chunk.width)] for ref in self.qkv]
        starts = [kind * block.packed + chunk.lanes for kind in range(3)]
        # A packed block always has all tokens; a tile of queries is a slice of it.
        rows = pl.ds(self.first_row, block.rows) if block.is_tiled else slice(None)
        return [
            self.qkv[0][window, slice(None) if kind else rows, pl.ds(start, chunk.width)]
            for kind, start in enumerate(starts)
        ]

    def compute_mask(self, window: jax.Array) -> None:
        """Compare the segment ids of a window's queries and keys, once for all heads."""
        if self.segment_ids is None:
            return
        keys = self.segment_ids[window]
        # The ids are needed as a column too. Eight equal rows make a whole tile, and only whole
        # tiles can be transposed.
        self.id_columns[...] = jnp.broadcast_to(keys, (8, self.block.tokens)).T
        queries = self.id_columns[pl.ds(self.first_row, self.block.rows), pl.ds(0, 1)]
        self.mask[...] = jnp.where(queries == keys, 0.0, MASK_VALUE)

    def unnormalized_softmax(
        self, queries: jax.Array, keys: jax.Array, head: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return exp(logits - maximum) `[rows, N]` and the inverse of its row sums, in float32.

        The caller divides where it is cheapest, by a product with the inverse.
        """
        logits = dot(queries, keys, CONTRACT_LANES) + self.bias[head]
        if self.mask is not None:
            logits = logits + self.mask[...]
        weights = jnp.exp(logits - logits.max(-1, keepdims=True))
        return weights, 1.0 / weights.sum(-1, keepdims=True)

    def for_each_window(self, function: Callable[[jax.Array, HeadChunk], None]) -> None:
        """Call `function(window, chunk)` for the whole block, with the mask of the window ready."""

        def one_window(window: jax.Array) -> None:
            self.compute_mask(window)
            # Unrolled: the lanes of a chunk must be known when the kernel is compiled.
            for chunk in self.block.chunks:
                function(window, chunk)

        for_each(self.block.windows, one_window)
