"""Float32 arithmetic on tokens `[R, C]` that kernels and plain layers share.

The TPU kernels call these functions on values that they have loaded from their blocks. The layers
of `models` use some of them too, so that both compute the same.
"""

import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Dimension numbers of `lax.dot_general`.
MATMUL = (((1,), (0,)), ((), ()))  # a [m, n], b [n, k] to [m, k]
CONTRACT_LANES = (((1,), (1,)), ((), ()))  # a [m, n], b [k, n] to [m, k]
CONTRACT_ROWS = (((0,), (0,)), ((), ()))  # a [n, m], b [n, k] to [m, k]


def dot(a: Float[Array, "_ _"], b: Float[Array, "_ _"], dims: tuple) -> Float[Array, "_ _"]:
    """Return a matrix product accumulated in float32; `dims` is one of the constants above."""
    return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


@runtime_checkable  # for type checkers at run time
class LayerNormParams(Protocol):
    """LayerNorm parameters, or their gradients, as blocks `[1, C]` among those of other layers."""

    scale: jax.Array
    norm_bias: jax.Array


def layer_norm(
    x: Float[Array, "R C"], params: LayerNormParams, epsilon: float
) -> tuple[Float[Array, "R C"], tuple[Float[Array, "R C"], Float[Array, "R 1"]]]:
    """Return the LayerNorm of float32 tokens, and the residuals of `layer_norm_grad`.

    The residuals are the standardized tokens and the inverse of their standard deviation.
    """
    centred = x - x.mean(-1, keepdims=True)
    inverse = lax.rsqrt((centred * centred).mean(-1, keepdims=True) + epsilon)
    standard = centred * inverse
    return standard * params.scale[...] + params.norm_bias[...], (standard, inverse)


def layer_norm_grad(
    grad: Float[Array, "R C"],
    residuals: tuple[Float[Array, "R C"], Float[Array, "R 1"]],
    params: LayerNormParams,
    param_grads: LayerNormParams,
) -> Float[Array, "R C"]:
    """Return the gradient of the tokens, and add the parameter gradients to `param_grads`.

    `grad` is the gradient of the result of `layer_norm`, and `residuals` are its second result.
    """
    standard, inverse = residuals
    param_grads.scale[...] += column_sums(grad * standard)
    param_grads.norm_bias[...] += column_sums(grad)
    return standardize_grad(grad * params.scale[...], standard, inverse)


def standardize_grad(
    grad: Float[Array, "*tokens C"],
    standard: Float[Array, "*tokens C"],
    inverse: Float[Array, "*tokens 1"],
) -> Float[Array, "*tokens C"]:
    """Return the gradient of tokens from that of the standardized tokens, `standard`.

    `inverse` is the inverse of the standard deviation of each token.
    """
    along = (grad * standard).mean(-1, keepdims=True)
    return inverse * (grad - grad.mean(-1, keepdims=True) - standard * along)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the exact GELU, by erf: the erfc of `jax.nn.gelu` takes a CPU twice as long."""
    return 0.5 * x * (1.0 + lax.erf(x * math.sqrt(0.5)))


def gelu_and_derivative(
    x: Float[Array, "*shape"],
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Return the exact GELU and its derivative."""
    cdf = 0.5 * (1.0 + lax.erf(x * math.sqrt(0.5)))
    density = jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return x * cdf, cdf + x * density


def column_sums(x: Float[Array, "R C"]) -> Float[Array, "1 C"]:
    """Return the sums over the rows."""
    return x.sum(0, keepdims=True)
