"""Random operands of window attention, and its outputs and gradients, for tests of kernels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Largest relative error of outputs and gradients.
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}


def operands(
    shape: tuple[int, int, int], heads: int, dim: int, dtype: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Build qkv, bias, and the weights of the outputs in the loss, for (B, windows, N)."""
    keys = jax.random.split(jax.random.key(0), 3)
    qkv = jax.random.normal(keys[0], (*shape, 3, heads, dim), dtype)
    bias = jax.random.normal(keys[1], (heads, shape[-1], shape[-1]))
    return qkv, bias, jax.random.normal(keys[2], (*shape, heads, dim))


def value_and_gradients(
    attend: Callable[[jax.Array, jax.Array], jax.Array],
    qkv: jax.Array,
    bias: jax.Array,
    weights: jax.Array,
) -> tuple[jax.Array, ...]:
    """Return the outputs and the gradients of queries, keys, values and bias."""

    def loss(qkv: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = attend(qkv, bias)
        return (out * weights).sum(), out

    (_, out), (qkv, bias) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(qkv, bias)
    return out, *jnp.moveaxis(qkv, 3, 0), bias
