"""The MLP of a block."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.ad_checkpoint import checkpoint_name

from vswin_jax.kernels.token_arithmetic import gelu, gelu_and_slope
from vswin_jax.models.settings import KERNEL_INITS, BlockSettings, pin_tokens

# The name by which a remat policy may keep the hidden tokens, as the product gives them.
HIDDEN = "hidden"


@jax.custom_vjp
def _gelu_of_sum(x: jax.Array, bias: jax.Array) -> jax.Array:
    """The exact GELU of `x + bias`. Its gradient needs only these: the sum would be stored too."""
    return gelu(x + bias)


def _backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, ...]:
    x, bias = kept
    # Else XLA would keep the erf of the forward pass, or of what remat computes again.
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    gradient = gradient * gelu_and_slope(x + bias)[1]
    return gradient, jnp.sum(gradient, range(x.ndim - 1))


_gelu_of_sum.defvjp(lambda x, bias: (gelu(x + bias), (x, bias)), _backward)


class DenseGelu(nn.Module):
    """A linear layer, whose parameters are those of `nn.Dense`, and GELU."""

    features: int
    settings: BlockSettings

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., C]` to `[..., features]`."""
        init, shape = KERNEL_INITS[self.settings.kernel_init], (x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.settings.dtype)
        x = pin_tokens(self.settings.product(x, kernel), "hidden")
        return _gelu_of_sum(checkpoint_name(x, HIDDEN), bias)


class Mlp(nn.Module):
    """Two dense layers with an exact GELU between them."""

    settings: BlockSettings

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[..., C]` to the same."""
        settings, shape, channels = self.settings, x.shape, x.shape[-1]
        if settings.takes_groups(train):
            # As one axis a CPU takes GELU in place, where it would need as much memory again.
            x = x.reshape(-1, channels)
        dropout = nn.Dropout(settings.drop_rate, deterministic=not train)
        x = dropout(DenseGelu(settings.hidden(channels), settings, name="fc1")(x))
        x = settings.dense(channels, "fc2")(x)
        return dropout(pin_tokens(x, "channels")).reshape(shape)
