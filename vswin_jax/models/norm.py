"""LayerNorm that stores only the tokens and their statistics for its gradient."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from vswin_jax.kernels.token_arithmetic import standardize_grad

# The default of PyTorch; that of Flax is 1e-6.
EPSILON = 1e-5

# The name by which a remat policy may keep the statistics of all tokens.
STATISTICS = "statistics"


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, with parameters and statistics in float32.

    Equals `nn.LayerNorm` with a two-pass variance. JAX's own gradient of that stores four arrays as
    large as the tokens; this one stores the tokens, which a residual branch keeps anyway, and
    their statistics.

    Attributes:
      dtype: The dtype of the result.
    """

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "*tokens C"]) -> Float[Array, "*tokens C"]:
        """Normalise each token, then scale and shift it."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return _normalize(x, scale, bias, self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(x: jax.Array, scale: ArrayLike, bias: ArrayLike, dtype: DTypeLike) -> jax.Array:
    return _normalize_fwd(x, scale, bias, dtype)[0]


def _normalize_fwd(
    x: jax.Array, scale: ArrayLike, bias: ArrayLike, dtype: DTypeLike
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    mean = x.mean(-1, keepdims=True, dtype=jnp.float32)
    centred = x - mean
    inverse = jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + EPSILON)
    # The result is computed from the named statistics, so that a backward pass under a policy that
    # keeps them does not compute the unnamed ones again.
    mean, inverse = checkpoint_name((mean, inverse), STATISTICS)
    centred = x - mean
    return (centred * (inverse * scale) + bias).astype(dtype), (x, scale, mean, inverse)


def _normalize_bwd(
    dtype: DTypeLike, residuals: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Without the barrier XLA broadcasts the statistics once for both passes, and stores the
    # broadcast arrays, which are as large as the tokens, in between.
    x, (scale, mean, inverse) = residuals[0], jax.lax.optimization_barrier(residuals[1:])
    standard, gradient = (x - mean) * inverse, gradient.astype(jnp.float32)
    tokens = tuple(range(x.ndim - 1))
    d_scale, d_bias = (gradient * standard).sum(tokens), gradient.sum(tokens)
    d_x = standardize_grad(gradient * scale, standard, inverse)
    return d_x.astype(x.dtype), d_scale, d_bias


_normalize.defvjp(_normalize_fwd, _normalize_bwd)
