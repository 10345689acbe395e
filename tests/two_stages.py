"""A model of two small stages, and clips for it, for tests of what stages do with blocks."""

import jax

# A stage that ends with a regular block, then one that ends with a shifted one.
TWO_STAGES = {"embed_dim": 8, "depths": (3, 2), "num_heads": (1, 2), "window_size": (2, 3, 3)}
# Whole windows in both stages; only in the first, then odd; padded in both.
CLIPS = [(4, 24, 48), (4, 36, 36), (5, 30, 17)]


def a_clip(extent: tuple[int, int, int]) -> jax.Array:
    """Three of them, `[3, *extent, 3]`."""
    return jax.random.normal(jax.random.key(7), (3, *extent, 3))
