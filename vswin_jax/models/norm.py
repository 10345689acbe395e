"""LayerNorm whose gradient needs little besides the tokens themselves."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from vswin_jax.kernels.token_arithmetic import standard_grad

# PyTorch's; Flax's default differs.
EPSILON = 1e-5

# The name by which a remat policy may keep the statistics of all tokens.
STATISTICS = "statistics"


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, with parameters and statistics in float32.

    As `nn.LayerNorm` with a two-pass variance. But JAX's own gradient of that stores four arrays as
    large as the tokens; this one stores the tokens, which a residual branch keeps anyway, and
    their statistics.

    Attributes:
      dtype: of the result.
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., C]` to the same."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return _normalize(x, scale, bias, self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return _forward(x, scale, bias, dtype)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, dtype: jnp.dtype
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    mean = x.mean(-1, keepdims=True, dtype=jnp.float32)
    centred = x - mean
    inverse = jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + EPSILON)
    # The result is of those that are kept, which spares the backward pass the others.
    mean, inverse = checkpoint_name((mean, inverse), STATISTICS)
    centred = x - mean
    return (centred * (inverse * scale) + bias).astype(dtype), (x, scale, mean, inverse)


def _backward(
    dtype: jnp.dtype, saved: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Else XLA broadcasts these once for both passes, and keeps arrays of the tokens' size for that.
    x, (scale, mean, inverse) = saved[0], jax.lax.optimization_barrier(saved[1:])
    standard, gradient = (x - mean) * inverse, gradient.astype(jnp.float32)
    tokens = tuple(range(x.ndim - 1))
    of_scale, of_bias = (gradient * standard).sum(tokens), gradient.sum(tokens)
    of_x = standard_grad(gradient * scale, standard, inverse)
    return of_x.astype(x.dtype), of_scale, of_bias


_normalize.defvjp(_forward, _backward)
