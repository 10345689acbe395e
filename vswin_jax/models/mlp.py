"""The MLP of a block."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from vswin_jax.kernels.token_arithmetic import gelu, gelu_and_derivative
from vswin_jax.models.settings import KERNEL_INITS, BlockSettings, constrain_tokens

# The name by which a remat policy may keep the hidden tokens, before the bias is added.
HIDDEN = "hidden"


@jax.custom_vjp
def _bias_gelu(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Return the exact GELU of `x + bias`.

    The gradient is custom so that only `x` and `bias` are stored for it, and not the sum as well.
    """
    return gelu(x + bias)


def _bias_gelu_bwd(
    residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, ...]:
    x, bias = residuals
    # Without the barrier XLA stores the erf of the forward pass, or of its rematerialisation.
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    gradient = gradient * gelu_and_derivative(x + bias)[1]
    return gradient, jnp.sum(gradient, range(x.ndim - 1))


_bias_gelu.defvjp(lambda x, bias: (gelu(x + bias), (x, bias)), _bias_gelu_bwd)


class DenseGelu(nn.Module):
    """A linear layer, with the parameters of `nn.Dense`, followed by GELU."""

    features: int
    settings: BlockSettings

    @nn.compact
    def __call__(self, x: Float[Array, "*tokens C"]) -> Float[Array, "*tokens features"]:
        """Apply the linear layer and GELU."""
        init, shape = KERNEL_INITS[self.settings.kernel_init], (x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.settings.dtype)
        x = constrain_tokens(self.settings.matmul(x, kernel), "hidden")
        return _bias_gelu(checkpoint_name(x, HIDDEN), bias)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    settings: BlockSettings

    @nn.compact
    def __call__(self, x: Float[Array, "*tokens C"], train: bool) -> Float[Array, "*tokens C"]:
        """Apply both layers to each token."""
        settings, shape, channels = self.settings, x.shape, x.shape[-1]
        if settings.uses_groups(train):
            # With a single axis of tokens XLA computes GELU in place on a CPU, which halves memory.
            x = x.reshape(-1, channels)
        dropout = nn.Dropout(settings.drop_rate, deterministic=not train)
        x = dropout(DenseGelu(settings.hidden(channels), settings, name="fc1")(x))
        x = settings.dense(channels, "fc2")(x)
        return dropout(constrain_tokens(x, "channels")).reshape(shape)
