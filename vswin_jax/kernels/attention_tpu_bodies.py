"""The bodies of the TPU kernels: attention of a few windows whose logits never leave the chip.

Heads lie side by side in the lanes, `dim` lanes each, and stay so. A head is picked by zeroing
the lanes of its neighbours: the matrix unit multiplies 128 lanes at a time whatever they hold, so
that costs what 32 lanes would, and nothing is ever moved between lanes.

The grid is (split, group of heads, tile of queries, step of windows[, part of the result]).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

# The reference adds -100, not -inf, to the logits between regions (video_swin_facts, 1.1).
OTHER_REGION = -100.0

TILE_AXIS, STEP_AXIS, PART_AXIS = 2, 3, 4

Ref = jax.Array
_OVER_LANES = (((1,), (1,)), ((), ()))  # a [m, L], b [n, L] to [m, n]
_OVER_ROWS = (((0,), (0,)), ((), ()))  # a [n, m], b [n, L] to [m, L]
_PLAIN = (((1,), (0,)), ((), ()))  # a [m, n], b [n, L] to [m, L]


@dataclass(frozen=True)
class Chunk:
    """Heads whose lanes are multiplied together, 128 of them at most.

    first: the first head, counted in the block of heads; heads: how many; lanes: where they begin
    in a block of queries (or keys, values, outputs); width: how many lanes they take.
    """

    first: int
    heads: int
    lanes: int
    width: int


@dataclass(frozen=True)
class Body:
    """What a kernel knows of its blocks beforehand.

    windows: in a block; rows: queries in a block; tokens: keys; dim: lanes of a head; scale: on
    the queries; packed: the channels, where one block has queries, keys and values side by side, 0
    where each has its own block; chunks: the heads of a block; shifted: whether regions matter.
    """

    windows: int
    rows: int
    tokens: int
    dim: int
    scale: float
    packed: int
    chunks: tuple[Chunk, ...]
    shifted: bool

    @property
    def tiled(self) -> bool:
        """Whether a block has some of the queries only."""
        return self.rows < self.tokens


def _dot(a: jax.Array, b: jax.Array, dims: tuple) -> jax.Array:
    return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _each(count: int, do: Callable[[jax.Array], None]) -> None:
    """`do(index)` for each index, as a loop on the chip: its program is there once."""
    lax.fori_loop(0, count, lambda index, _: do(index), None)


def _own(rows: int, chunk: Chunk, body: Body, head: jax.Array) -> jax.Array:
    """Which lanes of `[rows, width]` are those of `head`, counted in the chunk."""
    return lax.broadcasted_iota(jnp.int32, (rows, chunk.width), 1) // body.dim == head


def _put(ref: Ref, window: jax.Array, chunk: Chunk, own: jax.Array, value: jax.Array) -> None:
    """Writes the lanes of one head; those of its neighbours in the chunk stay."""
    lanes = pl.ds(chunk.lanes, chunk.width)
    ref[window, :, lanes] = jnp.where(own, value.astype(ref.dtype), ref[window, :, lanes])


@dataclass(frozen=True)
class Operands:
    """The blocks that both kernels read, and where the mask of a window is kept.

    qkv: one block of all three, or three; bias: `[heads, rows, N]`; ids: `[windows, 1, N]`;
    columns, mask: scratch for the ids `[N, 8]` and for what they add to the logits `[rows, N]`;
    row: where the queries of this program begin.
    """

    body: Body
    qkv: Sequence[Ref]
    bias: Ref
    ids: Ref | None
    columns: Ref | None
    mask: Ref | None
    row: jax.Array | int

    @classmethod
    def of(cls, body: Body, refs: Sequence[Ref]) -> "tuple[Operands, Sequence[Ref]]":
        """Takes the first and last of a kernel's arguments, and gives back the others."""
        count = 1 if body.packed else 3
        qkv, bias, rest = refs[:count], refs[count], refs[count + 1 :]
        # The interpreter knows the program's place only outside of loops and branches.
        row = pl.program_id(TILE_AXIS) * body.rows if body.tiled else 0
        if not body.shifted:
            return cls(body, qkv, bias, None, None, None, row), rest
        ids, *rest, columns, mask = rest
        return cls(body, qkv, bias, ids, columns, mask, row), rest

    def load(self, window: jax.Array, chunk: Chunk) -> list[jax.Array]:
        """Queries, keys and values of the heads of a chunk: `[rows or N, width]`."""
        if not self.body.packed:
            return [ref[window, :, pl.ds(chunk.lanes, chunk.width)] for ref in self.qkv]
        starts = [kind * self.body.packed + chunk.lanes for kind in range(3)]
        rows = pl.ds(self.row, self.body.rows) if self.body.tiled else slice(None)
        return [
            self.qkv[0][window, slice(None) if kind else rows, pl.ds(start, chunk.width)]
            for kind, start in enumerate(starts)
        ]

    def write_mask(self, window: jax.Array) -> None:
        """Compares the regions of a window's tokens, once for all heads."""
        if self.ids is None:
            return
        keys = self.ids[window]
        # Eight equal rows fill a tile, which is what can be transposed.
        self.columns[...] = jnp.broadcast_to(keys, (8, self.body.tokens)).T
        queries = self.columns[pl.ds(self.row, self.body.rows), pl.ds(0, 1)]
        self.mask[...] = jnp.where(queries == keys, 0.0, OTHER_REGION)

    def exponentials(
        self, queries: jax.Array, keys: jax.Array, head: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Of logits less their maximum, `[rows, N]`, and the inverse of their sums; float32."""
        logits = _dot(queries, keys, _OVER_LANES) + self.bias[head]
        if self.mask is not None:
            logits = logits + self.mask[...]
        weights = jnp.exp(logits - logits.max(-1, keepdims=True))
        return weights, 1.0 / weights.sum(-1, keepdims=True)

    def for_each_window(self, do: Callable[[jax.Array, Chunk], None]) -> None:
        """`do(window, chunk)` for all of the block, with the mask of the window in its place."""

        def one_window(window: jax.Array) -> None:
            self.write_mask(window)
            for chunk in self.body.chunks:
                do(window, chunk)

        _each(self.body.windows, one_window)


def _scaled(queries: jax.Array, own: jax.Array, scale: float) -> jax.Array:
    """One head's queries, the lanes of its neighbours 0."""
    return jnp.where(own, queries.astype(jnp.float32) * scale, 0.0).astype(queries.dtype)


def forward(body: Body, *refs: Ref) -> None:
    """Reads qkv, bias and region ids, see `Operands`; writes `[windows, rows, lanes]`."""
    operands, (out_ref,) = Operands.of(body, refs)

    def one_chunk(window: jax.Array, chunk: Chunk) -> None:
        queries, keys, values = operands.load(window, chunk)

        def one_head(head: jax.Array) -> None:
            own = _own(body.rows, chunk, body, head)
            own_queries = _scaled(queries, own, body.scale)
            weights, inverse = operands.exponentials(own_queries, keys, chunk.first + head)
            out = _dot(weights.astype(values.dtype), values, _PLAIN) * inverse
            _put(out_ref, window, chunk, own, out)

        _each(chunk.heads, one_head)

    operands.for_each_window(one_chunk)


def backward(body: Body, *refs: Ref) -> None:
    """Reads what `forward` reads and the gradient of its result; writes those of bias and qkv.

    The gradient of the bias is added up over the steps. Those of queries, keys and values go to
    three blocks where queries are tiled. Else they go to one, side by side where they are read so,
    or one part of the grid after the other.
    """
    operands, (out_grad_ref, bias_grad_ref, *rest) = Operands.of(body, refs)
    outputs, grads = (rest, rest) if body.tiled else (rest[:1], rest[1:])

    def one_chunk(window: jax.Array, chunk: Chunk) -> None:
        queries, keys, values = operands.load(window, chunk)
        out_grad = out_grad_ref[window, :, pl.ds(chunk.lanes, chunk.width)]

        def one_head(head: jax.Array) -> None:
            own = _own(body.rows, chunk, body, head)
            own_keys = _own(body.tokens, chunk, body, head)
            own_queries = _scaled(queries, own, body.scale)
            own_grad = _scaled(out_grad, own, 1.0)
            weights, inverse = operands.exponentials(own_queries, keys, chunk.first + head)
            weights = weights * inverse
            grad = _dot(own_grad, values, _OVER_LANES)
            grad = weights * (grad - (weights * grad).sum(-1, keepdims=True))
            bias_grad_ref[chunk.first + head] += grad
            grad, weights = grad.astype(keys.dtype), weights.astype(keys.dtype)
            _put(grads[0], window, chunk, own, _dot(grad, keys, _PLAIN) * body.scale)
            _put(grads[1], window, chunk, own_keys, _dot(grad, own_queries, _OVER_ROWS))
            _put(grads[2], window, chunk, own_keys, _dot(weights, own_grad, _OVER_ROWS))

        _each(chunk.heads, one_head)

    step = pl.program_id(STEP_AXIS)

    def all_windows() -> None:
        @pl.when(step == 0)
        def _() -> None:
            bias_grad_ref[...] = jnp.zeros_like(bias_grad_ref)

        operands.for_each_window(one_chunk)

    if body.tiled:
        all_windows()
    elif body.packed:
        all_windows()
        for kind, grad in enumerate(grads):
            outputs[0][:, :, pl.ds(kind * body.packed, body.packed)] = grad[...]
    else:
        _in_parts(all_windows, grads, outputs[0])


def _in_parts(compute: Callable[[], None], results: Sequence[Ref], output: Ref) -> None:
    """Computes in the first part of the grid, and in each writes one of the results.

    The output is another block of the same array in each part.
    """
    part = pl.program_id(PART_AXIS)
    pl.when(part == 0)(compute)
    for index, result in enumerate(results):

        @pl.when(part == index)
        def _(result: Ref = result) -> None:
            output[...] = result[...]
