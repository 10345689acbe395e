"""Bodies of the TPU kernels of window attention, which keep the logits of a few windows in VMEM.

Heads stay side by side in the lanes, `dim` lanes each, as the qkv layer writes them. A head is
selected by zeroing the lanes of the other heads in its chunk of 128 lanes: the matrix unit
multiplies 128 lanes at a time anyway, so this costs no more than 32 lanes would, and no data is
moved between lanes.

The loops, from the outside: windows, chunks of heads, heads. The mask of a window is computed once
for all of its heads, and queries, keys and values are loaded once for all heads of a chunk. Windows
and heads are loops on the chip, so that the program of a head exists once and only the logits of
one head are alive. The float32 logits of a published window, `[392, 392]`, already exceed the
vector registers. They are spilled to VMEM through the single vector store slot of a core, which
bounds these kernels as much as the matrix unit does.

The grid is (split, group of heads, tile of queries, step of windows[, part of the result]).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from vswin_jax.kernels.attention_tpu_operands import (
    AttentionBlock,
    HeadChunk,
    Operands,
    Ref,
    for_each,
)
from vswin_jax.kernels.token_arithmetic import CONTRACT_LANES, CONTRACT_ROWS, MATMUL, dot
from vswin_jax.runtime.lazy_module import LazyModule

pl = LazyModule("jax.experimental.pallas")

# Axes of the grid.
STEP_AXIS, PART_AXIS = 3, 4


def _head_lanes(rows: int, chunk: HeadChunk, block: AttentionBlock, head: jax.Array) -> jax.Array:
    """Return a mask `[rows, width]` of the lanes of `head`, an index within the chunk."""
    return lax.broadcasted_iota(jnp.int32, (rows, chunk.width), 1) // block.dim == head


def _store_head(
    ref: Ref, window: jax.Array, chunk: HeadChunk, head_lanes: jax.Array, value: jax.Array
) -> None:
    """Write the lanes of one head and keep those of the other heads in the chunk.

    The lanes of a chunk are aligned and known when the kernel is compiled. Those of one head are
    neither, as `head` is the index of a loop, and storing them alone would move data between lanes.
    """
    lanes = pl.ds(chunk.lanes, chunk.width)
    ref[window, :, lanes] = jnp.where(head_lanes, value.astype(ref.dtype), ref[window, :, lanes])


def _select_head(rows: jax.Array, head_lanes: jax.Array, scale: float) -> jax.Array:
    """Scale one head's rows, and zero the lanes of the other heads."""
    return jnp.where(head_lanes, rows.astype(jnp.float32) * scale, 0.0).astype(rows.dtype)


def forward(block: AttentionBlock, *refs: Ref) -> None:
    """Compute attention of a block, `[windows, rows, lanes]`.

    `refs` are those of `Operands`, and the output before the scratch buffers.
    """
    operands, (out_ref,) = Operands.split_from(block, refs)

    def one_chunk(window: jax.Array, chunk: HeadChunk) -> None:
        queries, keys, values = operands.load(window, chunk)

        def one_head(head: jax.Array) -> None:
            head_lanes = _head_lanes(block.rows, chunk, block, head)
            query = _select_head(queries, head_lanes, block.scale)
            weights, inverse = operands.unnormalized_softmax(query, keys, chunk.first + head)
            # Divided after the product, whose rows have 128 lanes instead of N.
            out = dot(weights.astype(values.dtype), values, MATMUL) * inverse
            _store_head(out_ref, window, chunk, head_lanes, out)

        for_each(chunk.heads, one_head)

    operands.for_each_window(one_chunk)


@dataclass(frozen=True)
class _Gradients:
    """Blocks of the backward kernel: `out` is read; `bias` and `qkv`, three blocks, are written."""

    out: Ref
    bias: Ref
    qkv: Sequence[Ref]


def backward(block: AttentionBlock, *refs: Ref) -> None:
    """Compute the gradients of the bias and of queries, keys and values of a block.

    `refs` are those of `forward`, with the gradient of its output before this kernel's outputs. The
    gradient of the bias is accumulated over the steps. The gradients of queries, keys and values
    are written to three outputs if queries are tiled. Otherwise they are collected in scratch and
    then copied to one output: side by side if qkv is packed, else one after the other, in the
    parts of the grid's last axis.
    """
    operands, (out_grad, bias_grad, *rest) = Operands.split_from(block, refs)
    outputs, qkv_grads = (rest, rest) if block.is_tiled else (rest[:1], rest[1:])
    grads = _Gradients(out=out_grad, bias=bias_grad, qkv=qkv_grads)
    step = pl.program_id(STEP_AXIS)

    def all_windows() -> None:
        @pl.when(step == 0)
        def _() -> None:
            bias_grad[...] = jnp.zeros_like(bias_grad)

        operands.for_each_window(
            lambda window, chunk: _backward_chunk(operands, grads, window, chunk)
        )

    if block.is_tiled:
        all_windows()
    elif block.packed:
        all_windows()
        # Scratch begins at lane 0, where `_store_head` writes aligned; in the packed output keys
        # and values begin at any multiple of `packed`.
        for kind, grad in enumerate(qkv_grads):
            outputs[0][:, :, pl.ds(kind * block.packed, block.packed)] = grad[...]
    else:
        _write_in_parts(all_windows, qkv_grads, outputs[0])


def _backward_chunk(
    operands: Operands, grads: _Gradients, window: jax.Array, chunk: HeadChunk
) -> None:
    """Compute the gradients of the heads of a chunk in one window."""
    block = operands.block
    queries, keys, values = operands.load(window, chunk)
    out_grad = grads.out[window, :, pl.ds(chunk.lanes, chunk.width)]

    def one_head(head: jax.Array) -> None:
        """Add the gradients of one head."""
        query_lanes = _head_lanes(block.rows, chunk, block, head)
        key_lanes = _head_lanes(block.tokens, chunk, block, head)
        query = _select_head(queries, query_lanes, block.scale)
        head_grad = _select_head(out_grad, query_lanes, 1.0)
        weights, inverse = operands.unnormalized_softmax(query, keys, chunk.first + head)
        weights = weights * inverse
        # First the gradient of the weights, then that of the logits, which the bias shares.
        grad = dot(head_grad, values, CONTRACT_LANES)
        grad = weights * (grad - (weights * grad).sum(-1, keepdims=True))
        grads.bias[chunk.first + head] += grad
        grad, weights = grad.astype(keys.dtype), weights.astype(keys.dtype)
        query_grad, key_grad, value_grad = grads.qkv
        # Each is stored before the next is computed, so that the three need not be alive at once.
        grad_of_query = dot(grad, keys, MATMUL) * block.scale
        _store_head(query_grad, window, chunk, query_lanes, grad_of_query)
        grad_of_key = dot(grad, query, CONTRACT_ROWS)
        _store_head(key_grad, window, chunk, key_lanes, grad_of_key)
        grad_of_value = dot(weights, head_grad, CONTRACT_ROWS)
        _store_head(value_grad, window, chunk, key_lanes, grad_of_value)

    for_each(chunk.heads, one_head)


def _write_in_parts(compute: Callable[[], None], results: Sequence[Ref], output: Ref) -> None:
    """Compute in the first part of the grid, and write one of the results in each part.

    `output` is a different block of the same array in each part, because a grid step can write only
    one block of an array.
    """
    part = pl.program_id(PART_AXIS)
    pl.when(part == 0)(compute)
    for index, result in enumerate(results):

        @pl.when(part == index)
        def _(result: Ref = result) -> None:
            output[...] = result[...]
