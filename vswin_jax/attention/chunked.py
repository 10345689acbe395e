"""Attention of a few windows and heads at a time, for CPUs: the logits are never stored.

The logits of a chunk fit the caches of a CPU, which makes this several times faster than writing
all logits to memory, and it bounds the memory on every platform. The backward pass recomputes the
logits from qkv. The output and the sums of the softmax are saved, which spares the backward pass
the product with the values.

Both passes are loops that overwrite one array chunk by chunk, and the array starts as a copy of
existing data. XLA would fill a new array with zeros, for all blocks at once, and copy it for each.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from vswin_jax.attention import xla
from vswin_jax.attention.inputs import AttentionInputs
from vswin_jax.sharding.constraints import is_sharded

# Number of (window, head) pairs in a chunk: enough work for all cores between two synchronizations,
# and few enough that their float32 logits, 392 x 392 each, stay in the cache that the cores share.
CHUNK_HEADS = 12

# Name of the attention output, and here of the softmax's sums, for remat policies.
ATTENTION_OUT = "attended"

# The axes (window, head) of each array that is cut into chunks; None if it has no such axis.
_Axes = tuple[int | None, int | None]
_QKV, _OUT, _TOTAL, _BIAS, _SEGMENT_IDS = (1, 4), (1, 3), (1, 2), (None, 0), (0, None)

_Arrays = tuple[jax.Array, jax.Array]
# inputs, output and the softmax's sums
_Residuals = tuple[AttentionInputs, jax.Array, jax.Array]


@dataclass(frozen=True)
class _WindowChunk:
    """Some windows of all clips and some heads of these windows.

    Attributes:
      starts: first window and first head.
      sizes: number of windows and of heads.
      dropout_key: key of this chunk, or None.
    """

    starts: tuple[jax.Array, jax.Array]
    sizes: tuple[int, int]
    dropout_key: jax.Array | None

    def slice(self, x: jax.Array, axes: _Axes) -> jax.Array:
        """Return the chunk's part of `x`."""
        for axis, start, size in zip(axes, self.starts, self.sizes, strict=True):
            if axis is not None:
                x = jax.lax.dynamic_slice_in_dim(x, start, size, axis)
        return x

    def update(self, x: jax.Array, part: jax.Array, axes: _Axes) -> jax.Array:
        """Return `x` with the chunk's part replaced."""
        starts = dict(zip(axes, self.starts, strict=True))
        return jax.lax.dynamic_update_slice(x, part, [starts.get(i, 0) for i in range(x.ndim)])

    def flat_inputs(self, inputs: AttentionInputs) -> AttentionInputs:
        """Return the chunk's part of the inputs, with the windows of all clips in one axis."""
        qkv, ids = self.slice(inputs.qkv, _QKV), inputs.segment_ids
        if ids is not None:
            ids = jnp.tile(self.slice(ids, _SEGMENT_IDS), (len(qkv), 1))
        return replace(
            inputs,
            qkv=qkv.reshape(-1, *qkv.shape[2:]),
            bias=self.slice(inputs.bias, _BIAS),
            segment_ids=ids,
            dropout_key=self.dropout_key,
        )


def _loop_over_chunks(
    step: Callable[[_WindowChunk, Any], Any], init: Any, inputs: AttentionInputs
) -> Any:
    """Fold `step(chunk, state)` over all chunks of the inputs, from the state `init`."""
    _, windows, _, _, heads, _ = inputs.qkv.shape
    chunk_windows, chunk_heads = _chunk_sizes(inputs.qkv)
    count, groups = windows // chunk_windows, heads // chunk_heads
    keys = None
    if inputs.dropout_key is not None:
        keys = jax.random.split(inputs.dropout_key, groups * count)

    def body(index: jax.Array, state: Any) -> Any:
        # Heads are the outer loop, so that a part of the bias serves all windows in a row.
        starts = (index % count * chunk_windows, index // count * chunk_heads)
        key = None if keys is None else keys[index]
        return step(_WindowChunk(starts, (chunk_windows, chunk_heads), dropout_key=key), state)

    return jax.lax.fori_loop(0, groups * count, body, init)


def _chunk_sizes(qkv: jax.Array) -> tuple[int, int]:
    """Return the windows and the heads of a chunk.

    If clips are split over devices, a chunk is one window of all clips: a loop over windows leaves
    every clip on its device, but a loop over clips would gather all of them on each device.
    """
    clips, windows, _, _, heads, _ = qkv.shape
    if is_sharded("batch", clips):
        return 1, heads
    chunk_heads = largest_divisor(heads, CHUNK_HEADS)
    return largest_divisor(windows, CHUNK_HEADS // chunk_heads), chunk_heads


def largest_divisor(number: int, most: int) -> int:
    """Return the largest divisor of `number` that is at most `most`."""
    return next(n for n in range(min(most, number), 0, -1) if number % n == 0)


@jax.custom_vjp
def _chunked(inputs: AttentionInputs) -> jax.Array:
    return _fwd(inputs)[0]


def _fwd(inputs: AttentionInputs) -> tuple[jax.Array, _Residuals]:
    qkv = inputs.qkv

    def step(chunk: _WindowChunk, state: _Arrays) -> _Arrays:
        parts = xla.attend(chunk.flat_inputs(inputs))
        by_clip = (part.reshape(len(qkv), -1, *part.shape[1:]) for part in parts)
        updates = zip(state, by_clip, (_OUT, _TOTAL), strict=True)
        return tuple(chunk.update(x, part, axes) for x, part, axes in updates)

    # Any data of the right shape will do, as the loop overwrites all of it.
    init = qkv.reshape(len(qkv), -1)[:, : qkv[0].size // 3]
    init = init.reshape(*qkv.shape[:3], *qkv.shape[4:])
    totals = jnp.swapaxes(init[..., 0], 2, 3).astype(jnp.float32)
    out, total = checkpoint_name(_loop_over_chunks(step, (init, totals), inputs), ATTENTION_OUT)
    return out, (inputs, out, total)


def _bwd(residuals: _Residuals, out_grad: jax.Array) -> tuple[AttentionInputs]:
    inputs, out, total = residuals

    def step(chunk: _WindowChunk, state: _Arrays) -> _Arrays:
        # `qkv_grad` starts as qkv itself, and the part of this chunk is not overwritten yet.
        qkv_grad, bias_grad = state
        others = (chunk.slice(out, _OUT), chunk.slice(total, _TOTAL), chunk.slice(out_grad, _OUT))
        others = (part.reshape(-1, *part.shape[2:]) for part in others)
        flat = chunk.flat_inputs(replace(inputs, qkv=qkv_grad))
        qkv_part, bias_part = xla.attend_grad(flat, *others)
        qkv_part = qkv_part.reshape(len(qkv_grad), -1, *qkv_part.shape[1:])
        bias_part = chunk.slice(bias_grad, _BIAS) + bias_part
        return chunk.update(qkv_grad, qkv_part, _QKV), chunk.update(bias_grad, bias_part, _BIAS)

    # Zeros computed from this bias: constant zeros would be one array, copied for each block.
    init = (inputs.qkv, 0 * inputs.bias)
    qkv_grad, bias_grad = _loop_over_chunks(step, init, inputs)
    grads = replace(inputs, qkv=qkv_grad, bias=bias_grad, segment_ids=None, dropout_key=None)
    return (grads,)


_chunked.defvjp(_fwd, _bwd)


def _chunked_flat(inputs: AttentionInputs) -> jax.Array:
    return _chunked(replace(inputs, qkv=inputs.qkv[None]))[0]


# All clips as one axis of windows, so that the size of a chunk may be any divisor of all of them.
_chunked_flattened = xla.flatten_clips(_chunked_flat)


def chunked(inputs: AttentionInputs) -> Float[Array, "B windows N heads dim"]:
    """Return attention inside each window, chunk by chunk: see `window_attention`."""
    keeps_clips = is_sharded("batch", len(inputs.qkv))
    return (_chunked if keeps_clips else _chunked_flattened)(inputs)
