"""Attention of some windows, written out in JAX's own operations."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp

from vswin_jax.attention.inputs import Given
from vswin_jax.kernels.attention_tpu_bodies import OTHER_REGION


def heads_first(given: Given) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scaled queries, keys and values, each `[G, h, N, d]`."""
    query, key, value = jnp.moveaxis(given.qkv, (2, 3), (0, 2))
    return query * given.scale, key, value


def exponentials(query: jax.Array, key: jax.Array, given: Given) -> jax.Array:
    """Softmax in float32, not yet divided by its sum: two of `[G, h, N, d]` to `[G, h, N, N]`."""
    logits = jnp.einsum("ghqd,ghkd->ghqk", query, key, preferred_element_type=jnp.float32)
    logits = logits + given.bias
    regions = given.regions
    if regions is not None:
        # A product: of a choice between two numbers XLA fills arrays with each for a CPU. It stores
        # this one, so a small dtype, which has the number exactly.
        other = regions[:, None, :, None] != regions[:, None, None, :]
        logits = logits + jnp.bfloat16(OTHER_REGION) * other
    return jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))


def dropped(weights: jax.Array, given: Given) -> jax.Array:
    """`weights`, of which the key drops some and the others grow; all of them without a key."""
    if given.key is None:
        return weights
    kept = jax.random.bernoulli(given.key, 1.0 - given.drop_rate, weights.shape)
    return jnp.where(kept, weights / (1.0 - given.drop_rate), 0.0)


def attend(given: Given) -> tuple[jax.Array, jax.Array]:
    """Attention of some windows, and the sums of their exponentials.

    The division by the softmax's sum comes after the product with the values, where it is N times
    smaller.

    Returns:
      `[G, N, h, d]` in the dtype of `qkv`, and float32 `[G, h, N]`.
    """
    query, key, value = heads_first(given)
    weights = exponentials(query, key, given)
    total = weights.sum(-1)
    out = jnp.einsum(
        "ghqk,ghkd->ghqd",
        dropped(weights, given).astype(value.dtype),
        value,
        preferred_element_type=jnp.float32,
    )
    return jnp.swapaxes(out / total[..., None], 1, 2).astype(value.dtype), total


def gradients(
    given: Given, out: jax.Array, total: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gradients of the projection and of the bias, `[G, N, 3, h, d]` and `[h, N, N]`.

    `out` and `total` are what `attend` gave, and `gradient` is that of `out`. Logits are computed
    again.
    """
    query, key, value = heads_first(given)
    weights = exponentials(query, key, given)
    # By the quotient rule, of the product with the values and of the sum that divides it.
    d_product = jnp.swapaxes(gradient, 1, 2) / total[..., None]
    d_total = -(d_product * jnp.swapaxes(out, 1, 2)).sum(-1, keepdims=True)
    dtype = given.qkv.dtype
    d_product = d_product.astype(dtype)
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    d_weights = product("ghqd,ghkd->ghqk", d_product, value)
    d_logits = weights * (dropped(d_weights, given) + d_total)
    low, weights = d_logits.astype(dtype), dropped(weights, given)
    d_qkv = (
        product("ghqk,ghkd->ghqd", low, key) * given.scale,
        product("ghqk,ghqd->ghkd", low, query),
        product("ghqk,ghqd->ghkd", weights.astype(dtype), d_product),
    )
    d_qkv = jnp.stack([jnp.swapaxes(x, 1, 2) for x in d_qkv], 2)
    return d_qkv.astype(dtype), d_logits.sum(0)


def of_flat_windows(attend: Callable[[Given], jax.Array]) -> Callable[[Given], jax.Array]:
    """`attend`, which knows windows but not clips, for `[B, windows, ...]`."""

    def attend_in_clips(given: Given) -> jax.Array:
        qkv, regions = given.qkv, given.regions
        batch, windows = qkv.shape[:2]
        if regions is not None:
            regions = jnp.tile(regions, (batch, 1))
        flat = qkv.reshape(batch * windows, *qkv.shape[2:])
        out = attend(replace(given, qkv=flat, regions=regions))
        return out.reshape(batch, windows, *out.shape[1:])

    return attend_in_clips
