"""The classification head of the reference (mmaction2's I3DHead)."""

import jax
import jax.numpy as jnp
from flax import linen as nn


def pool(features: jax.Array) -> jax.Array:
    """Mean over time and space in float32: `[B, D, H, W, C]` to `[B, C]`."""
    return features.astype(jnp.float32).mean((1, 2, 3))


def head(num_classes: int, name: str) -> nn.Dense:
    """The linear classifier; float32, so that logits are."""
    return nn.Dense(
        num_classes, kernel_init=nn.initializers.normal(0.01), dtype=jnp.float32, name=name
    )
