"""Attention of a few windows and heads at a time, whose logits are never stored.

Logits are as large as a CPU's caches allow: there this is several times faster than writing them
to memory, and on every platform it bounds the memory. The backward pass computes them again, from
the projection; what attention gave and the sums of its exponentials are kept, which saves it the
product with the values.

Both passes are loops that overwrite an array chunk by chunk, which held something before: arrays of
their own XLA would fill with zeros, those of all blocks at once, and copy for each block.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vswin_jax.attention import xla
from vswin_jax.attention.inputs import Given
from vswin_jax.sharding.constraints import splits

# Window-heads at a time: enough work for all cores between two of their meetings, and float32
# logits (392 x 392) that stay in the cache that they share.
CHUNK_HEADS = 12

# The name by which a remat policy may keep what attention gives, and here the sums as well.
ATTENDED = "attended"

# Where windows and heads are in what is cut into chunks.
_Axes = tuple[int | None, int | None]
_QKV, _OUT, _TOTAL, _BIAS, _REGIONS = (1, 4), (1, 3), (1, 2), (None, 0), (0, None)


@dataclass(frozen=True)
class _Chunk:
    """Some windows of all clips, and some heads of these: `sizes` of both, from `starts` on."""

    starts: tuple[jax.Array, jax.Array]
    sizes: tuple[int, int]
    key: jax.Array | None

    def of(self, x: jax.Array, axes: _Axes) -> jax.Array:
        """The chunk's part of `x`."""
        for axis, start, size in zip(axes, self.starts, self.sizes, strict=True):
            if axis is not None:
                x = jax.lax.dynamic_slice_in_dim(x, start, size, axis)
        return x

    def put(self, part: jax.Array, x: jax.Array, axes: _Axes) -> jax.Array:
        """`x` with another such part."""
        starts = dict(zip(axes, self.starts, strict=True))
        return jax.lax.dynamic_update_slice(x, part, [starts.get(i, 0) for i in range(x.ndim)])

    def flat(self, given: Given) -> Given:
        """What `plain` takes: the chunk's windows, clip after clip, its bias, regions and key."""
        qkv, regions = self.of(given.qkv, _QKV), given.regions
        if regions is not None:
            regions = jnp.tile(self.of(regions, _REGIONS), (len(qkv), 1))
        flat, bias = qkv.reshape(-1, *qkv.shape[2:]), self.of(given.bias, _BIAS)
        return replace(given, qkv=flat, bias=bias, regions=regions, key=self.key)


def _over_chunks(step: Callable[[_Chunk, Any], Any], start: Any, given: Given) -> Any:
    """What `step` makes of `start`, chunk after chunk of `[B, windows, N, 3, heads, dim]`.

    Where clips are split over devices, one window of all clips is a chunk: a loop over windows
    leaves every clip where it is, one over clips would gather them all on each device.
    """
    qkv, key = given.qkv, given.key
    clips, windows, heads = qkv.shape[0], qkv.shape[1], qkv.shape[4]
    if splits("batch", clips):
        together, some = 1, heads
    else:
        some = largest_divisor(heads, CHUNK_HEADS)
        together = largest_divisor(windows, CHUNK_HEADS // some)
    count, groups = windows // together, heads // some
    keys = None if key is None else jax.random.split(key, groups * count)

    def one(index: jax.Array, state: Any) -> Any:
        starts = (index % count * together, index // count * some)
        return step(_Chunk(starts, (together, some), None if keys is None else keys[index]), state)

    return jax.lax.fori_loop(0, groups * count, one, start)


def largest_divisor(number: int, most: int) -> int:
    """The largest one of `number` that is at most `most`."""
    return next(n for n in range(min(most, number), 0, -1) if number % n == 0)


@jax.custom_vjp
def _chunked(given: Given) -> jax.Array:
    return _forward(given)[0]


def _forward(given: Given) -> tuple[jax.Array, tuple[Given, jax.Array, jax.Array]]:
    qkv = given.qkv

    def step(chunk: _Chunk, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        parts = xla.attend(chunk.flat(given))
        parts = (part.reshape(len(qkv), -1, *part.shape[1:]) for part in parts)
        places = zip(parts, state, (_OUT, _TOTAL), strict=True)
        return tuple(chunk.put(*place) for place in places)

    # Whatever is there: the loop overwrites it.
    start = qkv.reshape(len(qkv), -1)[:, : qkv[0].size // 3]
    start = start.reshape(*qkv.shape[:3], *qkv.shape[4:])
    totals = jnp.swapaxes(start[..., 0], 2, 3).astype(jnp.float32)
    out, total = checkpoint_name(_over_chunks(step, (start, totals), given), ATTENDED)
    return out, (given, out, total)


def _backward(kept: tuple[Given, jax.Array, jax.Array], gradient: jax.Array) -> tuple[Given]:
    given, out, total = kept

    def step(chunk: _Chunk, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # The chunk's part of this is still the projection.
        d_qkv, d_bias = state
        others = (chunk.of(out, _OUT), chunk.of(total, _TOTAL), chunk.of(gradient, _OUT))
        others = (part.reshape(-1, *part.shape[2:]) for part in others)
        of_qkv, of_bias = xla.gradients(chunk.flat(replace(given, qkv=d_qkv)), *others)
        of_qkv = of_qkv.reshape(len(d_qkv), -1, *of_qkv.shape[1:])
        of_bias = chunk.of(d_bias, _BIAS) + of_bias
        return chunk.put(of_qkv, d_qkv, _QKV), chunk.put(of_bias, d_bias, _BIAS)

    # Zeros of this bias: those of a constant would be one array, copied for each block.
    d_qkv, d_bias = _over_chunks(step, (given.qkv, 0 * given.bias), given)
    return (replace(given, qkv=d_qkv, bias=d_bias, regions=None, key=None),)


_chunked.defvjp(_forward, _backward)


def _flat(given: Given) -> jax.Array:
    return _chunked(replace(given, qkv=given.qkv[None]))[0]


_of_flat_windows = xla.of_flat_windows(_flat)


def chunked(given: Given) -> jax.Array:
    """Attention inside each window: see `window_attention`."""
    return (_chunked if splits("batch", len(given.qkv)) else _of_flat_windows)(given)
