"""The pooling and the classification head of the reference (mmaction2's I3DHead)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32

from vswin_jax.models import initial_draws


def pool(features: Float[Array, "B D H W C"]) -> Float32[Array, "B C"]:
    """Average over time and space, in float32."""
    return features.astype(jnp.float32).mean((1, 2, 3))


def head(num_classes: int, name: str) -> nn.Dense:
    """Build the linear classifier, in float32 so that logits are float32."""
    return nn.Dense(
        num_classes, kernel_init=initial_draws.normal(0.01), dtype=jnp.float32, name=name
    )
