"""Arithmetic on tokens inside the TPU kernels, in float32."""

import math

import jax
import jax.numpy as jnp
from jax import lax

PLAIN = (((1,), (0,)), ((), ()))  # a [m, n], b [n, k] to [m, k]
OVER_LANES = (((1,), (1,)), ((), ()))  # a [m, n], b [k, n] to [m, k]
OVER_ROWS = (((0,), (0,)), ((), ()))  # a [n, m], b [n, k] to [m, k]


def dot(a: jax.Array, b: jax.Array, dims: tuple) -> jax.Array:
    """A matrix product with float32 sums."""
    return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def standardized(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """Tokens `[R, C]` less their mean over their deviation, and the inverse of that `[R, 1]`."""
    centred = x - x.mean(-1, keepdims=True)
    inverse = lax.rsqrt((centred * centred).mean(-1, keepdims=True) + epsilon)
    return centred * inverse, inverse


def standardized_grad(grad: jax.Array, standard: jax.Array, inverse: jax.Array) -> jax.Array:
    """The gradient of x, from that of `standardized(x)` and what that returned."""
    along = (grad * standard).mean(-1, keepdims=True)
    return inverse * (grad - grad.mean(-1, keepdims=True) - standard * along)


def gelu(x: jax.Array) -> jax.Array:
    """The exact one."""
    return 0.5 * x * (1.0 + lax.erf(x * math.sqrt(0.5)))


def gelu_and_slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The exact GELU and its derivative."""
    below = 0.5 * (1.0 + lax.erf(x * math.sqrt(0.5)))
    density = jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return x * below, below + x * density


def column_sums(x: jax.Array) -> jax.Array:
    """`[R, C]` to `[1, C]`."""
    return x.sum(0, keepdims=True)
