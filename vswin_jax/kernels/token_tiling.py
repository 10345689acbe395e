"""Choice of the token blocks and channel tiles of the TPU kernels, by the VMEM that they take."""

from collections.abc import Iterator
from dataclasses import dataclass

from vswin_jax.kernels.chip_memory import LANES, ChipMemory

# Upper limits of the tokens in a block and of the channels in a tile. Larger ones hide less of the
# transfers behind computation, and make the program of a kernel longer.
_MAX_ROWS = 1024
_MAX_TILE = 512


@dataclass(frozen=True)
class TokenSizes:
    """Sizes of the tokens `[clips, count, C]`; `itemsize` is the bytes of one element."""

    clips: int
    count: int
    itemsize: int


@dataclass(frozen=True)
class VmemUsage:
    """VMEM usage of a kernel.

    Attributes:
      streamed: channels of a token that are read or written at each step.
      intermediate: float32 channels of a token that are computed in between.
      fixed: bytes that stay for all steps: weights and their gradients.
    """

    streamed: int
    intermediate: int
    fixed: int

    def total_bytes(self, tokens: TokenSizes, rows: int) -> int:
        """Return the bytes for blocks of `rows` tokens; streamed blocks are double-buffered."""
        streamed_bytes = 2 * self.streamed * tokens.itemsize
        return rows * (streamed_bytes + 4 * self.intermediate) + self.fixed


@dataclass(frozen=True)
class TokenTiling:
    """Blocks of one kernel.

    Attributes:
      tokens: sizes of the array of tokens.
      rows: tokens in a block, all of the same clip.
      splits: cores that share the blocks, each with its own parameter gradients.
      vmem_bytes: an estimate of the VMEM in use.
    """

    tokens: TokenSizes
    rows: int
    splits: int
    vmem_bytes: int

    @property
    def blocks(self) -> int:
        """Blocks of a clip."""
        return self.tokens.count // self.rows

    @property
    def steps(self) -> int:
        """Blocks that each core processes, one after the other."""
        return self.tokens.clips * self.blocks // self.splits


def choose_token_tiling(
    tokens: TokenSizes, usage: VmemUsage, chip: ChipMemory
) -> TokenTiling | None:
    """Return the tiling with the largest blocks that fit the chip, or None if none fits."""
    for rows in _block_sizes(tokens):
        vmem_bytes = usage.total_bytes(tokens, rows)
        if vmem_bytes <= chip.vmem_bytes:
            divisible = tokens.clips * (tokens.count // rows) % chip.cores == 0
            splits = chip.cores if divisible else 1
            return TokenTiling(tokens, rows=rows, splits=splits, vmem_bytes=vmem_bytes)
    return None


def _block_sizes(tokens: TokenSizes) -> Iterator[int]:
    """Yield the possible tokens of a block, largest first: whole tiles, or all tokens of a clip."""
    # A tile of VMEM has 8 rows of 32 bits; narrower elements are packed, so it has more rows.
    tile_rows = 32 // tokens.itemsize
    for rows in range(min(_MAX_ROWS, tokens.count), 0, -1):
        if tokens.count % rows == 0 and (rows % tile_rows == 0 or rows == tokens.count):
            yield rows


def channel_tile(channels: int) -> int:
    """Return the channels that a kernel multiplies at a time.

    Tiles are whole lanes and of equal size, so that one loop body serves all of them.
    """
    sizes = [size for size in range(LANES, _MAX_TILE + 1, LANES) if channels % size == 0]
    return channels if channels <= _MAX_TILE or not sizes else sizes[-1]
