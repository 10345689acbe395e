"""Choice of the blocks of the TPU attention kernels, by the VMEM that they take."""

from dataclasses import dataclass, replace

from vswin_jax.kernels.attention_tpu_operands import AttentionBlock, HeadChunk
from vswin_jax.kernels.chip_memory import LANES, ChipMemory, round_up

SUBLANES = 8
# Upper limit of the queries of all windows in a block. Larger blocks mean fewer grid steps, of
# which the first cannot hide its transfers behind computation.
_MAX_BLOCK_ROWS = 800


@dataclass(frozen=True)
class AttentionSizes:
    """Sizes of the arrays that bound the choice of blocks.

    Attributes:
      windows: number of windows of all clips.
      tokens: number of tokens in a window.
      heads: number of attention heads.
      dim: channels of a head.
      period: number of windows after which the segment ids repeat, or 0 without segments.
      itemsize: bytes of an element of qkv.
    """

    windows: int
    tokens: int
    heads: int
    dim: int
    period: int
    itemsize: int

    @property
    def channels(self) -> int:
        """Channels of all heads."""
        return self.heads * self.dim


@dataclass(frozen=True)
class AttentionTiling:
    """Blocks of one kernel.

    Attributes:
      sizes: sizes of the arrays.
      packed: True if queries, keys and values of all heads are one block; otherwise each is a
        block of 128 lanes.
      block_heads: heads in a block.
      rows: queries of each window in a block; a window may have several tiles of queries.
      block_windows: windows in a block.
      splits: cores that share the windows, each with its own bias gradient.
      vmem_bytes: an estimate of the VMEM in use.
    """

    sizes: AttentionSizes
    packed: bool
    block_heads: int
    rows: int
    block_windows: int
    splits: int = 1
    vmem_bytes: int = 0

    @property
    def groups(self) -> int:
        """Blocks of heads."""
        return self.sizes.heads // self.block_heads

    @property
    def tiles(self) -> int:
        """Blocks of queries."""
        return self.sizes.tokens // self.rows

    @property
    def steps(self) -> int:
        """Blocks of windows on each core."""
        return self.sizes.windows // (self.block_windows * self.splits)

    @property
    def lanes(self) -> int:
        """Lanes of a block of outputs."""
        return self.block_heads * self.sizes.dim

    def block(self, scale: float, has_segments: bool) -> AttentionBlock:
        """Return the static description of a block for the kernel bodies."""
        dim, chunk_heads = self.sizes.dim, _heads_per_chunk(self.sizes.dim)
        firsts = range(0, self.block_heads, chunk_heads)
        counts = [min(chunk_heads, self.block_heads - first) for first in firsts]
        return AttentionBlock(
            windows=self.block_windows,
            rows=self.rows,
            tokens=self.sizes.tokens,
            dim=dim,
            scale=scale,
            packed=self.sizes.channels if self.packed else 0,
            chunks=tuple(
                HeadChunk(first=first, heads=heads, lanes=first * dim, width=heads * dim)
                for first, heads in zip(firsts, counts, strict=True)
            ),
            has_segments=has_segments,
        )


def choose_attention_tiling(
    sizes: AttentionSizes, chip: ChipMemory, backward: bool
) -> AttentionTiling | None:
    """Return the tiling with which the kernel reads the least, or None if no tiling fits.

    Queries are split last, because every tile of queries reads all keys and values again.
    """
    chunk_heads = _heads_per_chunk(sizes.dim)
    is_aligned = chunk_heads * sizes.dim == LANES and sizes.heads % chunk_heads == 0
    packed = not is_aligned or sizes.channels == LANES
    block_heads = sizes.heads if packed else chunk_heads
    for rows in _query_tiles(sizes.tokens):
        for windows in _window_counts(sizes, rows):
            tiling = AttentionTiling(sizes, packed, block_heads, rows=rows, block_windows=windows)
            vmem_bytes = _vmem_bytes(tiling, backward)
            if vmem_bytes <= chip.vmem_bytes:
                splits = _splits(tiling, chip) if backward else 1
                return replace(tiling, splits=splits, vmem_bytes=vmem_bytes)
    return None


def _heads_per_chunk(dim: int) -> int:
    return max(1, LANES // dim)


def _splits(tiling: AttentionTiling, chip: ChipMemory) -> int:
    """Return the number of cores that share the windows in the backward kernel.

    Only cores that would add to the same block of the bias gradient need a split.
    """
    must_split = tiling.groups * tiling.tiles % chip.cores and tiling.steps % chip.cores == 0
    return chip.cores if must_split else 1


def _query_tiles(tokens: int) -> list[int]:
    """Return the possible queries of a block: all of them, then fewer, down to 32."""
    parts = range(1, tokens // (4 * SUBLANES) + 1)
    whole = [tokens // n for n in parts if tokens % n == 0 and tokens // n % SUBLANES == 0]
    return [tokens, *(rows for rows in whole if rows < tokens)]


def _window_counts(sizes: AttentionSizes, rows: int) -> list[int]:
    """Return the possible windows of a block, most first."""
    most = max(1, _MAX_BLOCK_ROWS // rows)
    divisible = sizes.period or sizes.windows
    return [n for n in range(most, 0, -1) if divisible % n == 0]


def _vmem_bytes(tiling: AttentionTiling, backward: bool) -> int:
    """Estimate the bytes in use, every array padded to whole tiles.

    Blocks that change at every step have two buffers, the bias and its gradient have one.
    """
    sizes = tiling.sizes
    keys = round_up(sizes.tokens, LANES)
    square = round_up(tiling.rows, SUBLANES) * keys * 4
    out = round_up(tiling.lanes, LANES)
    qkv = round_up(3 * tiling.lanes, LANES) if tiling.packed else 3 * out
    lanes = 2 * (qkv + out) + (2 * qkv + 3 * out if backward else 0)
    rows = tiling.block_windows * round_up(sizes.tokens, 2 * SUBLANES)
    blocks = rows * lanes * sizes.itemsize
    mask = square + keys * LANES * 4
    bias = tiling.block_heads * square
    # The number of squares `[rows, N]` alive at once was found by lowering the compiler's limit
    # until it refused.
    return blocks + mask + (2 * bias + 3 * square if backward else bias + 2 * square)
