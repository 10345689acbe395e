"""Attention within windows: one function, several implementations of the same maths.

Every implementation takes the packed projection of all windows, the bias and the region ids, and
agrees with `xla` in values and in every gradient, that of the bias too.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from vswin_jax.attention import choice
from vswin_jax.attention.pallas_kernels import OTHER_REGION
from vswin_jax.errors import unknown_name
from vswin_jax.layout import splits

Implementation = Literal["auto", "xla", "chunked", "pallas_tpu", "gpu"]

# Window-heads at a time: enough work for all cores between two of their meetings, and float32
# logits (392 x 392) that stay in the cache that they share.
_CHUNK_HEADS = 12


def _attend(
    qkv: jax.Array,
    bias: jax.Array,
    regions: jax.Array | None,
    key: jax.Array | None,
    drop_rate: float,
    scale: float,
) -> jax.Array:
    """Attention of some windows: `[G, N, 3, h, d]`, `[h, N, N]`, `[G, N]` to `[G, N, h, d]`.

    Logits and softmax are float32. The division by the softmax's sum comes after the product with
    the values, where it is N times smaller.
    """
    query, key_, value = jnp.moveaxis(qkv, (2, 3), (0, 2))
    query = query * scale
    logits = jnp.einsum("ghqd,ghkd->ghqk", query, key_, preferred_element_type=jnp.float32)
    logits = logits + bias
    if regions is not None:
        same = regions[:, None, :, None] == regions[:, None, None, :]
        logits = logits + jnp.where(same, 0.0, OTHER_REGION)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    if key is not None:
        kept = jax.random.bernoulli(key, 1.0 - drop_rate, weights.shape)
        weights = jnp.where(kept, weights / (1.0 - drop_rate), 0.0)
    out = jnp.einsum(
        "ghqk,ghkd->ghqd",
        weights.astype(value.dtype),
        value,
        preferred_element_type=jnp.float32,
    )
    return jnp.swapaxes(out / total, 1, 2).astype(value.dtype)


def _xla(
    qkv: jax.Array,
    bias: jax.Array,
    regions: jax.Array | None,
    key: jax.Array | None,
    drop_rate: float,
    scale: float,
) -> jax.Array:
    """All windows at once: the reference implementation."""
    return _attend(qkv, bias, regions, key, drop_rate, scale)


def _chunked(
    qkv: jax.Array,
    bias: jax.Array,
    regions: jax.Array | None,
    key: jax.Array | None,
    drop_rate: float,
    scale: float,
) -> jax.Array:
    """A few windows and heads at a time, recomputed in the backward pass.

    Logits are as large as the chip's caches allow, and never stored: on a CPU this is several
    times faster than writing them to memory, and on every platform it bounds the memory.
    """
    windows, tokens, _, heads, dim = qkv.shape
    size = _largest_divisor(heads, _CHUNK_HEADS)
    groups, together = heads // size, _largest_divisor(windows, _CHUNK_HEADS // size)
    chunks = windows // together
    attend = jax.checkpoint(partial(_attend, drop_rate=drop_rate, scale=scale))

    def in_chunks(x: jax.Array | None) -> jax.Array | None:
        return None if x is None else x.reshape(chunks, together, *x.shape[1:])

    def one_group(group: tuple[jax.Array, jax.Array, jax.Array | None]) -> jax.Array:
        group_qkv, group_bias, group_keys = group

        def one_chunk(chunk: tuple[jax.Array, jax.Array | None, jax.Array | None]) -> jax.Array:
            chunk_qkv, chunk_regions, chunk_key = chunk
            return attend(chunk_qkv, group_bias, chunk_regions, chunk_key)

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


def _of_flat_windows(attend: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`attend`, which knows windows but not clips, for `[B, windows, ...]`."""

    def attend_in_clips(
        qkv: jax.Array,
        bias: jax.Array,
        regions: jax.Array | None,
        key: jax.Array | None,
        drop_rate: float,
        scale: float,
    ) -> jax.Array:
        batch, windows = qkv.shape[:2]
        if regions is not None:
            regions = jnp.tile(regions, (batch, 1))
        flat = qkv.reshape(batch * windows, *qkv.shape[2:])
        out = attend(flat, bias, regions, key, drop_rate, scale)
        return out.reshape(batch, windows, *out.shape[1:])

    return attend_in_clips


def _chunked_over_devices(
    qkv: jax.Array,
    bias: jax.Array,
    regions: jax.Array | None,
    key: jax.Array | None,
    drop_rate: float,
    scale: float,
) -> jax.Array:
    """One window of all clips at a time, recomputed in the backward pass.

    The clips and heads are split over devices, the windows of a clip are not: a loop over windows
    leaves every clip where it is, one over clips would gather them all on each device.
    """
    clips, windows, tokens = qkv.shape[:3]
    if not splits("batch", clips):
        return _of_flat_windows(_chunked)(qkv, bias, regions, key, drop_rate, scale)
    attend = jax.checkpoint(partial(_attend, drop_rate=drop_rate, scale=scale))

    def one_window(window: tuple[jax.Array, jax.Array | None, jax.Array | None]) -> jax.Array:
        window_qkv, ids, window_key = window
        ids = None if ids is None else jnp.broadcast_to(ids, (clips, tokens))
        return attend(window_qkv, bias, ids, window_key)

    keys = None if key is None else jax.random.split(key, windows)
    out = jax.lax.map(one_window, (jnp.moveaxis(qkv, 1, 0), regions, keys))
    return jnp.moveaxis(out, 0, 1)


IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "xla": _of_flat_windows(_xla),
    "chunked": _chunked_over_devices,
    **{name: partial(choice.fused, name=name) for name in choice.FUSED},
}


def choose(
    implementation: str, qkv: jax.Array, regions: jax.Array | None, scale: float, drops: bool
) -> str:
    """The name of the implementation for `qkv` here, where `"auto"` asks for one."""
    if implementation == "auto":
        return choice.suited(qkv, regions, scale, drops)
    if implementation in IMPLEMENTATIONS:
        return implementation
    raise unknown_name("attention implementation", implementation, ["auto", *IMPLEMENTATIONS])


def window_attention(
    qkv: jax.Array,
    bias: jax.Array,
    region_ids: jax.Array | None,
    *,
    scale: float | None = None,
    implementation: str = "auto",
    dropout_key: jax.Array | None = None,
    dropout_rate: float = 0.0,
) -> jax.Array:
    """Multi-head attention inside each window.

    Args:
      qkv: `[B, windows, N, 3, heads, dim]`, float32 or bfloat16.
      bias: `[heads, N, N]` (query, key), float32.
      region_ids: `[windows, N]` integers from 0 to 7; tokens of different ids do not attend to
        each other. None where the windows are not shifted.
      scale: factor on the queries; None is dim ** -0.5.
      implementation: a name of `IMPLEMENTATIONS`, or `"auto"`.
      dropout_key: drops attention weights at `dropout_rate` when given.

    Returns:
      `[B, windows, N, heads, dim]` in the dtype of `qkv`.

    Raises:
      InputError: an unknown implementation, or one that cannot be used here.
    """
    scale = qkv.shape[-1] ** -0.5 if scale is None else scale
    regions = None if region_ids is None else jnp.asarray(region_ids)
    drops = dropout_key is not None
    attend = IMPLEMENTATIONS[choose(implementation, qkv, regions, scale, drops)]
    return attend(qkv, bias, regions, dropout_key, dropout_rate, scale)
