"""Arithmetic on tokens, in float32 inside the TPU kernels; the layers take some of it too."""

import math
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax

PLAIN = (((1,), (0,)), ((), ()))  # a [m, n], b [n, k] to [m, k]
OVER_LANES = (((1,), (1,)), ((), ()))  # a [m, n], b [k, n] to [m, k]
OVER_ROWS = (((0,), (0,)), ((), ()))  # a [n, m], b [n, k] to [m, k]


def dot(a: jax.Array, b: jax.Array, dims: tuple) -> jax.Array:
    """A matrix product with float32 sums."""
    return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


class Norm(Protocol):
    """Parameters of a LayerNorm, or their gradients, among others: blocks `[1, C]`."""

    scale: jax.Array
    norm_bias: jax.Array


def normalized(
    x: jax.Array, norm: Norm, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """LayerNorm of float32 tokens `[R, C]`, and what its gradient needs.

    The latter are the tokens less their mean over their deviation, and its inverse `[R, 1]`.
    """
    centred = x - x.mean(-1, keepdims=True)
    inverse = lax.rsqrt((centred * centred).mean(-1, keepdims=True) + epsilon)
    standard = centred * inverse
    return standard * norm.scale[...] + norm.norm_bias[...], (standard, inverse)


def normalized_grad(
    grad: jax.Array, saved: tuple[jax.Array, jax.Array], norm: Norm, grads: Norm
) -> jax.Array:
    """The gradient of the tokens, from that of `normalized`; adds those of the parameters."""
    standard, inverse = saved
    grads.scale[...] += column_sums(grad * standard)
    grads.norm_bias[...] += column_sums(grad)
    return standard_grad(grad * norm.scale[...], standard, inverse)


def standard_grad(grad: jax.Array, standard: jax.Array, inverse: jax.Array) -> jax.Array:
    """The gradient of tokens, from that of `standard`: less their mean, times `inverse`."""
    along = (grad * standard).mean(-1, keepdims=True)
    return inverse * (grad - grad.mean(-1, keepdims=True) - standard * along)


def gelu(x: jax.Array) -> jax.Array:
    """The exact one, by erf: `jax.nn.gelu`'s erfc costs a CPU twice as much."""
    return 0.5 * x * (1.0 + lax.erf(x * math.sqrt(0.5)))


def gelu_and_slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The exact GELU and its derivative."""
    below = 0.5 * (1.0 + lax.erf(x * math.sqrt(0.5)))
    density = jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return x * below, below + x * density


def column_sums(x: jax.Array) -> jax.Array:
    """`[R, C]` to `[1, C]`."""
    return x.sum(0, keepdims=True)
