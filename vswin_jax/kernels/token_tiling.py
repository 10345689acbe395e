"""How the TPU kernels cut tokens and channels into blocks that a chip's memory holds."""

from collections.abc import Iterator
from dataclasses import dataclass

from vswin_jax.kernels.chip_memory import LANES, Chip

# What a block of tokens may have at most, and the channels that pass at once: more of either hides
# less, and makes the kernel's program longer.
_ROWS = 1024
_TILE = 512


@dataclass(frozen=True)
class Tokens:
    """What a kernel goes over: `clips` of `count` tokens; itemsize: of a channel of one."""

    clips: int
    count: int
    itemsize: int


@dataclass(frozen=True)
class Needs:
    """What a kernel takes of vector memory.

    streamed: channels of a token that come or go at each step; between: float32 channels of a token
    that are computed on the way; fixed: bytes that stay.
    """

    streamed: int
    between: int
    fixed: int

    def bytes(self, tokens: Tokens, rows: int) -> int:
        """With `rows` tokens in a block; there are two buffers of what is streamed."""
        return rows * (2 * self.streamed * tokens.itemsize + 4 * self.between) + self.fixed


@dataclass(frozen=True)
class Plan:
    """The blocks of one kernel.

    rows: tokens in a block, all of one clip; splits: how many cores share the blocks, each with
    gradients of its own; vector_memory: an estimate of the bytes in use.
    """

    tokens: Tokens
    rows: int
    splits: int
    vector_memory: int

    @property
    def blocks(self) -> int:
        """Of a clip."""
        return self.tokens.count // self.rows

    @property
    def steps(self) -> int:
        """Blocks that each of the cores has."""
        return self.tokens.clips * self.blocks // self.splits


def make_plan(tokens: Tokens, needs: Needs, chip: Chip) -> Plan | None:
    """The largest blocks of tokens that fit; None where nothing does."""
    for rows in _divisors_down(tokens):
        used = needs.bytes(tokens, rows)
        if used <= chip.vector_memory:
            shared = tokens.clips * (tokens.count // rows) % chip.cores == 0
            return Plan(tokens, rows, chip.cores if shared else 1, used)
    return None


def _divisors_down(tokens: Tokens) -> Iterator[int]:
    """Numbers of tokens in a block: whole tiles of the chip's, or all tokens of a clip."""
    packed = 32 // tokens.itemsize
    for rows in range(min(_ROWS, tokens.count), 0, -1):
        if tokens.count % rows == 0 and (rows % packed == 0 or rows == tokens.count):
            yield rows


def tile_of(channels: int) -> int:
    """How many of the channels pass at once: whole lanes, and the same number each time."""
    fitting = [n for n in range(LANES, _TILE + 1, LANES) if channels % n == 0]
    return channels if channels <= _TILE or not fitting else fitting[-1]
