"""Attention of a few windows and heads at a time, whose logits are never stored.

Logits are as large as a CPU's caches allow: there this is several times faster than writing them
to memory, and on every platform it bounds the memory. The backward pass computes them again, from
the projection; what attention gave and the sums of its exponentials are kept, which saves it the
product with the values.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vswin_jax.attention import plain
from vswin_jax.layout import splits

# Window-heads at a time: enough work for all cores between two of their meetings, and float32
# logits (392 x 392) that stay in the cache that they share.
_CHUNK_HEADS = 12

# The name by which a remat policy may keep what the backward pass needs besides the projection.
KEPT = "kept by chunked attention"


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def attend_chunk(
    qkv: jax.Array,
    bias: jax.Array,
    regions: jax.Array | None,
    key: jax.Array | None,
    drop_rate: float,
    scale: float,
) -> jax.Array:
    """Attention of a chunk, as `plain.attend`, with the backward pass of this module."""
    return plain.attend(qkv, bias, regions, key, drop_rate, scale)[0]


def _forward(
    qkv: jax.Array,
    bias: jax.Array,
    regions: jax.Array | None,
    key: jax.Array | None,
    *settings: float,
) -> tuple[jax.Array, tuple[Any, ...]]:
    out, total = plain.attend(qkv, bias, regions, key, *settings)
    return out, (qkv, bias, regions, key, *checkpoint_name((out, total), KEPT))


def _backward(
    drop_rate: float, scale: float, kept: tuple[Any, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, None, None]:
    """Gradients of qkv and of the bias, `[G, N, 3, h, d]` and `[h, N, N]`."""
    qkv, bias, regions, drop_key, out, total = kept
    query, key, value = plain.heads_first(qkv, scale)
    weights = plain.exponentials(query, key, bias, regions)
    # By the quotient rule, of the product with the values and of the sum that divides it.
    d_product = jnp.swapaxes(gradient, 1, 2) / total[..., None]
    d_total = -(d_product * jnp.swapaxes(out, 1, 2)).sum(-1, keepdims=True)
    d_product = d_product.astype(qkv.dtype)
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    d_weights = product("ghqd,ghkd->ghqk", d_product, value)
    d_logits = weights * (plain.dropped(d_weights, drop_key, drop_rate) + d_total)
    low, dropped = d_logits.astype(qkv.dtype), plain.dropped(weights, drop_key, drop_rate)
    d_qkv = (
        product("ghqk,ghkd->ghqd", low, key) * scale,
        product("ghqk,ghqd->ghkd", low, query),
        product("ghqk,ghqd->ghkd", dropped.astype(qkv.dtype), d_product),
    )
    d_qkv = jnp.stack([jnp.swapaxes(x, 1, 2) for x in d_qkv], 2)
    return d_qkv.astype(qkv.dtype), d_logits.sum(0), None, None


attend_chunk.defvjp(_forward, _backward)


def _chunked(
    qkv: jax.Array,
    bias: jax.Array,
    regions: jax.Array | None,
    key: jax.Array | None,
    drop_rate: float,
    scale: float,
) -> jax.Array:
    """A few windows and heads at a time."""
    windows, tokens, _, heads, dim = qkv.shape
    size = _largest_divisor(heads, _CHUNK_HEADS)
    groups, together = heads // size, _largest_divisor(windows, _CHUNK_HEADS // size)
    chunks = windows // together

    def in_chunks(x: jax.Array | None) -> jax.Array | None:
        return None if x is None else x.reshape(chunks, together, *x.shape[1:])

    def one_group(group: tuple[jax.Array, jax.Array, jax.Array | None]) -> jax.Array:
        group_qkv, group_bias, group_keys = group

        def one_chunk(chunk: tuple[jax.Array, jax.Array | None, jax.Array | None]) -> jax.Array:
            chunk_qkv, chunk_regions, chunk_key = chunk
            return attend_chunk(chunk_qkv, group_bias, chunk_regions, chunk_key, drop_rate, scale)

        out = jax.lax.map(one_chunk, (in_chunks(group_qkv), in_chunks(regions), group_keys))
        return out.reshape(windows, *out.shape[2:])

    keys = None if key is None else jax.random.split(key, (groups, chunks))
    if groups == 1:
        return one_group((qkv, bias, None if keys is None else keys[0]))
    grouped = jnp.moveaxis(qkv.reshape(windows, tokens, 3, groups, size, dim), 3, 0)
    out = jax.lax.map(one_group, (grouped, bias.reshape(groups, size, tokens, tokens), keys))
    return jnp.moveaxis(out, 0, 2).reshape(windows, tokens, heads, dim)


def _largest_divisor(number: int, most: int) -> int:
    """The largest one of `number` that is at most `most`."""
    return next(n for n in range(min(most, number), 0, -1) if number % n == 0)


def chunked(
    qkv: jax.Array,
    bias: jax.Array,
    regions: jax.Array | None,
    key: jax.Array | None,
    drop_rate: float,
    scale: float,
) -> jax.Array:
    """Attention inside each window: see `window_attention`.

    Where clips and heads are split over devices, the windows of a clip are not, and one window of
    all clips is a chunk: a loop over windows leaves every clip where it is, one over clips would
    gather them all on each device.
    """
    clips, windows, tokens = qkv.shape[:3]
    if not splits("batch", clips):
        return plain.of_flat_windows(_chunked)(qkv, bias, regions, key, drop_rate, scale)

    def one_window(window: tuple[jax.Array, jax.Array | None, jax.Array | None]) -> jax.Array:
        window_qkv, ids, window_key = window
        ids = None if ids is None else jnp.broadcast_to(ids, (clips, tokens))
        return attend_chunk(window_qkv, bias, ids, window_key, drop_rate, scale)

    keys = None if key is None else jax.random.split(key, windows)
    out = jax.lax.map(one_window, (jnp.moveaxis(qkv, 1, 0), regions, keys))
    return jnp.moveaxis(out, 0, 1)
