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


def _first_query(body: Body) -> jax.Array | int:
    """The row at which the queries of this program begin; asked for outside of loops."""
    return pl.program_id(TILE_AXIS) * body.rows if body.tiled else 0


def _load(
    refs: Sequence[Ref], kind: int, window: jax.Array, chunk: Chunk, row: jax.Array, body: Body
) -> jax.Array:
    """Queries (kind 0), keys (1) or values (2) of the heads of a chunk: `[tokens, width]`."""
    if not body.packed:
        return refs[kind][window, :, pl.ds(chunk.lanes, chunk.width)]
    lanes = pl.ds(kind * body.packed + chunk.lanes, chunk.width)
    if kind == 0 and body.tiled:
        return refs[0][window, pl.ds(row, body.rows), lanes]
    return refs[0][window, :, lanes]


def _write_mask(
    ids_ref: Ref, scratch: Sequence[Ref], window: jax.Array, row: jax.Array, body: Body
) -> None:
    """Writes what regions add to the logits of a window: `[rows, tokens]`."""
    columns_ref, mask_ref = scratch
    keys = ids_ref[window]
    # Eight equal rows fill a tile, which is what can be transposed.
    columns_ref[...] = jnp.broadcast_to(keys, (8, body.tokens)).T
    queries = columns_ref[pl.ds(row, body.rows), pl.ds(0, 1)]
    mask_ref[...] = jnp.where(queries == keys, 0.0, OTHER_REGION)


def _own(rows: int, chunk: Chunk, body: Body, head: jax.Array) -> jax.Array:
    """Which lanes of `[rows, width]` are those of `head`, counted in the chunk."""
    return lax.broadcasted_iota(jnp.int32, (rows, chunk.width), 1) // body.dim == head


def _own_queries(queries: jax.Array, own: jax.Array, scale: float) -> jax.Array:
    return jnp.where(own, queries.astype(jnp.float32) * scale, 0.0).astype(queries.dtype)


def _exponentials(
    queries: jax.Array, keys: jax.Array, bias: jax.Array, mask_ref: Ref | None
) -> tuple[jax.Array, jax.Array]:
    """Of the logits less their maximum, and the inverse of their sums: float32, `[rows, N]`."""
    logits = _dot(queries, keys, _OVER_LANES) + bias
    if mask_ref is not None:
        logits = logits + mask_ref[...]
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    return weights, 1.0 / weights.sum(-1, keepdims=True)


def _put(ref: Ref, window: jax.Array, chunk: Chunk, own: jax.Array, value: jax.Array) -> None:
    """Writes the lanes of one head; those of its neighbours in the chunk stay."""
    lanes = pl.ds(chunk.lanes, chunk.width)
    ref[window, :, lanes] = jnp.where(own, value.astype(ref.dtype), ref[window, :, lanes])


def forward(body: Body, *refs: Ref) -> None:
    """Reads qkv (1 or 3 blocks), bias `[heads, rows, N]`, region ids; writes `[w, rows, lanes]`."""
    inputs = 1 if body.packed else 3
    qkv, bias_ref, *rest = refs[:inputs], *refs[inputs:]
    ids_ref, out_ref, *scratch = rest if body.shifted else (None, *rest)
    row = _first_query(body)

    def one_window(window: jax.Array) -> None:
        if ids_ref is not None:
            _write_mask(ids_ref, scratch, window, row, body)
        for chunk in body.chunks:
            queries, keys, values = (
                _load(qkv, kind, window, chunk, row, body) for kind in range(3)
            )

            def one_head(head: jax.Array, chunk: Chunk = chunk) -> None:
                own = _own(body.rows, chunk, body, head)
                weights, inverse = _exponentials(
                    _own_queries(queries, own, body.scale),
                    keys,
                    bias_ref[chunk.first + head],
                    scratch[-1] if scratch else None,
                )
                out = _dot(weights.astype(values.dtype), values, _PLAIN) * inverse
                _put(out_ref, window, chunk, own, out)

            _each(chunk.heads, one_head)

    _each(body.windows, one_window)


def backward(body: Body, *refs: Ref) -> None:
    """Reads what `forward` reads and the gradient of its result; writes those of bias and qkv.

    The gradient of the bias is added up over the steps. Those of queries, keys and values go to
    three blocks where queries are tiled; else to one block: side by side where they are read so,
    or one part of the grid after the other.
    """
    inputs = 1 if body.packed else 3
    qkv, bias_ref, *rest = refs[:inputs], *refs[inputs:]
    ids_ref, *rest = rest if body.shifted else (None, *rest)
    out_grad_ref, bias_grad_ref, *rest = rest
    outputs, scratch = (rest[:3], rest[3:]) if body.tiled else (rest[:1], rest[1:])
    grads, scratch = (outputs, scratch) if body.tiled else (scratch[:3], scratch[3:])
    row, step = _first_query(body), pl.program_id(STEP_AXIS)

    def one_window(window: jax.Array) -> None:
        if ids_ref is not None:
            _write_mask(ids_ref, scratch, window, row, body)
        for chunk in body.chunks:
            queries, keys, values = (
                _load(qkv, kind, window, chunk, row, body) for kind in range(3)
            )
            out_grad = out_grad_ref[window, :, pl.ds(chunk.lanes, chunk.width)]

            def one_head(head: jax.Array, chunk: Chunk = chunk) -> None:
                own = _own(body.rows, chunk, body, head)
                own_keys = _own(body.tokens, chunk, body, head)
                own_queries = _own_queries(queries, own, body.scale)
                weights, inverse = _exponentials(
                    own_queries,
                    keys,
                    bias_ref[chunk.first + head],
                    scratch[-1] if scratch else None,
                )
                weights = weights * inverse
                own_grad = jnp.where(own, out_grad, 0).astype(out_grad.dtype)
                grad = _dot(own_grad, values, _OVER_LANES)
                grad = weights * (grad - (weights * grad).sum(-1, keepdims=True))
                bias_grad_ref[chunk.first + head] += grad
                grad, weights = grad.astype(keys.dtype), weights.astype(keys.dtype)
                _put(grads[0], window, chunk, own, _dot(grad, keys, _PLAIN) * body.scale)
                _put(grads[1], window, chunk, own_keys, _dot(grad, own_queries, _OVER_ROWS))
                _put(grads[2], window, chunk, own_keys, _dot(weights, own_grad, _OVER_ROWS))

            _each(chunk.heads, one_head)

    def all_windows() -> None:
        @pl.when(step == 0)
        def _() -> None:
            bias_grad_ref[...] = jnp.zeros_like(bias_grad_ref)

        _each(body.windows, one_window)

    if body.tiled:
        all_windows()
    elif body.packed:
        all_windows()
        for kind, grad in enumerate(grads):
            outputs[0][:, :, pl.ds(kind * body.packed, body.packed)] = grad[...]
    else:
        part = pl.program_id(PART_AXIS)
        pl.when(part == 0)(all_windows)
        for kind, grad in enumerate(grads):
            # Each part of the grid writes another block of the same array.
            @pl.when(part == kind)
            def _(grad: Ref = grad) -> None:
                outputs[0][...] = grad[...]
