"""Window attention in plain JAX operations: the reference for all other implementations.

`G` is the number of windows, of one clip or of several, and `h` and `d` are heads and channels of a
head.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vswin_jax.attention.inputs import AttentionInputs
from vswin_jax.kernels.attention_tpu_operands import MASK_VALUE


def _split_qkv(inputs: AttentionInputs) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return scaled queries, keys and values, each `[G, h, N, d]`."""
    query, key, value = jnp.moveaxis(inputs.qkv, (2, 3), (0, 2))
    return query * inputs.scale, key, value


def _unnormalized_softmax(query: jax.Array, key: jax.Array, inputs: AttentionInputs) -> jax.Array:
    """Return exp(logits - maximum), float32 `[G, h, N, N]`, from two of `[G, h, N, d]`."""
    logits = jnp.einsum("ghqd,ghkd->ghqk", query, key, preferred_element_type=jnp.float32)
    logits = logits + inputs.bias
    ids = inputs.segment_ids
    if ids is not None:
        # A product, because for a choice between two numbers XLA on a CPU fills an array with each
        # of them. The product is stored, so it has a small dtype, which represents -100 exactly.
        differs = ids[:, None, :, None] != ids[:, None, None, :]
        logits = logits + jnp.bfloat16(MASK_VALUE) * differs
    return jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))


def _dropout(weights: jax.Array, inputs: AttentionInputs) -> jax.Array:
    """Drop some of the `weights` and scale up the others; the identity without a key."""
    if inputs.dropout_key is None:
        return weights
    kept = jax.random.bernoulli(inputs.dropout_key, 1.0 - inputs.dropout_rate, weights.shape)
    return jnp.where(kept, weights / (1.0 - inputs.dropout_rate), 0.0)


def attend(inputs: AttentionInputs) -> tuple[Float[Array, "G N h d"], Float[Array, "G h N"]]:
    """Return the attention of flat windows in the dtype of `qkv`, and the softmax's float32 sums.

    The division by the sums comes after the product with the values, where it is N times smaller.
    """
    query, key, value = _split_qkv(inputs)
    weights = _unnormalized_softmax(query, key, inputs)
    total = weights.sum(-1)
    out = jnp.einsum(
        "ghqk,ghkd->ghqd",
        _dropout(weights, inputs).astype(value.dtype),
        value,
        preferred_element_type=jnp.float32,
    )
    return jnp.swapaxes(out / total[..., None], 1, 2).astype(value.dtype), total


def attend_grad(
    inputs: AttentionInputs,
    out: Float[Array, "G N h d"],
    total: Float[Array, "G h N"],
    out_grad: Float[Array, "G N h d"],
) -> tuple[Float[Array, "G N 3 h d"], Float[Array, "h N N"]]:
    """Return the gradients of qkv and of the bias; `out` and `total` are the results of `attend`.

    Logits are recomputed.
    """
    query, key, value = _split_qkv(inputs)
    weights = _unnormalized_softmax(query, key, inputs)
    # The quotient rule: `out` is the product with the values divided by `total`.
    d_product = jnp.swapaxes(out_grad, 1, 2) / total[..., None]
    d_total = -(d_product * jnp.swapaxes(out, 1, 2)).sum(-1, keepdims=True)
    dtype = inputs.qkv.dtype
    d_product = d_product.astype(dtype)
    einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)
    d_weights = einsum("ghqd,ghkd->ghqk", d_product, value)
    d_logits = weights * (_dropout(d_weights, inputs) + d_total)
    low, weights = d_logits.astype(dtype), _dropout(weights, inputs)
    d_qkv = (
        einsum("ghqk,ghkd->ghqd", low, key) * inputs.scale,
        einsum("ghqk,ghqd->ghkd", low, query),
        einsum("ghqk,ghqd->ghkd", weights.astype(dtype), d_product),
    )
    d_qkv = jnp.stack([jnp.swapaxes(x, 1, 2) for x in d_qkv], 2)
    return d_qkv.astype(dtype), d_logits.sum(0)


def flatten_clips(
    attend: Callable[[AttentionInputs], jax.Array],
) -> Callable[[AttentionInputs], jax.Array]:
    """Extend `attend` of flat windows `[G, ...]` to windows of clips `[B, windows, ...]`."""

    def attend_in_clips(inputs: AttentionInputs) -> jax.Array:
        qkv, ids = inputs.qkv, inputs.segment_ids
        batch, windows = qkv.shape[:2]
        if ids is not None:
            ids = jnp.tile(ids, (batch, 1))
        flat = qkv.reshape(batch * windows, *qkv.shape[2:])
        out = attend(replace(inputs, qkv=flat, segment_ids=ids))
        return out.reshape(batch, windows, *out.shape[1:])

    return attend_in_clips
