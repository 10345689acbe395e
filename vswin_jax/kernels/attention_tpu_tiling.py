"""How the TPU kernels cut their arrays into blocks, so that a chip's vector memory holds them."""

from dataclasses import dataclass

from vswin_jax.kernels.attention_tpu_bodies import Body, Chunk
from vswin_jax.kernels.chip_memory import LANES, Chip, padded

SUBLANES = 8
# Queries of all windows of a program together: fewer programs hide their start-up worse.
_PROGRAM_ROWS = 800


@dataclass(frozen=True)
class Sizes:
    """What is attended to: all windows of all clips, and what bounds the choice of blocks.

    windows: all; period: after how many the region ids repeat (0: there are none); itemsize:
    bytes of an element of qkv.
    """

    windows: int
    tokens: int
    heads: int
    dim: int
    period: int
    itemsize: int

    @property
    def channels(self) -> int:
        """Lanes of all heads."""
        return self.heads * self.dim


@dataclass(frozen=True)
class Plan:
    """The blocks of one kernel.

    Attributes:
      sizes: of the arrays.
      packed: queries, keys and values of all heads are one block; else a block has 128 lanes.
      block_heads: heads in a block.
      rows: queries in a block; the others are in further tiles.
      block_windows: windows in a block.
      splits: how many cores share the windows, each with a bias gradient of its own.
      vector_memory: an estimate of the bytes in use.
    """

    sizes: Sizes
    packed: bool
    block_heads: int
    rows: int
    block_windows: int
    splits: int
    vector_memory: int

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
        """Blocks of windows, on each of the cores."""
        return self.sizes.windows // (self.block_windows * self.splits)

    @property
    def lanes(self) -> int:
        """Lanes of a block of outputs."""
        return self.block_heads * self.sizes.dim

    def body(self, scale: float, shifted: bool) -> Body:
        """What the kernel is told."""
        dim, each = self.sizes.dim, max(1, LANES // self.sizes.dim)
        chunks = tuple(
            Chunk(first, heads := min(each, self.block_heads - first), first * dim, heads * dim)
            for first in range(0, self.block_heads, each)
        )
        packed = self.sizes.channels if self.packed else 0
        tokens = self.sizes.tokens
        return Body(self.block_windows, self.rows, tokens, dim, scale, packed, chunks, shifted)


def make_plan(sizes: Sizes, chip: Chip, backward: bool) -> Plan | None:
    """The blocks with which the kernel reads the least; None where nothing fits."""
    each = max(1, LANES // sizes.dim)
    aligned = each * sizes.dim == LANES and sizes.heads % each == 0
    packed = not aligned or sizes.channels == LANES
    block_heads = sizes.heads if packed else each
    for rows in _tiles(sizes.tokens):
        for windows in _divisors_down(sizes, rows):
            plan = _plan(sizes, chip, packed, block_heads, rows, windows, backward)
            if plan.vector_memory <= chip.vector_memory:
                return plan
    return None


def _plan(
    sizes: Sizes,
    chip: Chip,
    packed: bool,
    block_heads: int,
    rows: int,
    windows: int,
    backward: bool,
) -> Plan:
    blocks = sizes.heads // block_heads * (sizes.tokens // rows)
    halves = backward and blocks % chip.cores and sizes.windows // windows % chip.cores == 0
    splits = chip.cores if halves else 1
    used = _vector_memory(sizes, packed, block_heads, rows, windows, backward)
    return Plan(sizes, packed, block_heads, rows, windows, splits, used)


def _tiles(tokens: int) -> list[int]:
    """Numbers of queries in a block, from all of them down to the fewest that are worth it."""
    parts = range(1, tokens // (4 * SUBLANES) + 1)
    whole = [tokens // n for n in parts if tokens % n == 0 and tokens // n % SUBLANES == 0]
    return [tokens, *(rows for rows in whole if rows < tokens)]


def _divisors_down(sizes: Sizes, rows: int) -> list[int]:
    """Numbers of windows in a block, the most first."""
    most = max(1, _PROGRAM_ROWS // rows)
    together = sizes.period or sizes.windows
    return [n for n in range(most, 0, -1) if together % n == 0]


def _vector_memory(
    sizes: Sizes, packed: bool, block_heads: int, rows: int, windows: int, backward: bool
) -> int:
    """Bytes: two buffers for what changes at every step, one for the bias, and what is between."""
    keys = padded(sizes.tokens, LANES)
    square = padded(rows, SUBLANES) * keys * 4
    out = padded(block_heads * sizes.dim, LANES)
    qkv = padded(3 * block_heads * sizes.dim, LANES) if packed else 3 * out
    lanes = 2 * (qkv + out) + (2 * qkv + 3 * out if backward else 0)
    blocks = windows * padded(sizes.tokens, 2 * SUBLANES) * lanes * sizes.itemsize
    mask = square + keys * LANES * 4
    bias = block_heads * square
    # How many squares live at once was read off the compiler's complaints about smaller limits.
    return blocks + mask + (2 * bias + 3 * square if backward else bias + 2 * square)
