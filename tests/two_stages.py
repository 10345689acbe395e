"""A model of two small stages, and clips for it, for tests of what stages do with blocks."""

import jax

# A stage of two pairs and a block, which are looped over and not, then one of a single pair.
TWO_STAGES = {"embed_dim": 8, "depths": (5, 2), "num_heads": (1, 2), "window_size": (2, 3, 3)}
# Whole windows in both stages; only in the first, then odd; padded in both.
CLIPS = [(4, 24, 48), (4, 36, 36), (5, 30, 17)]


def a_clip(extent: tuple[int, int, int]) -> jax.Array:
    """Three of them, `[3, *extent, 3]`."""
    return jax.random.normal(jax.random.key(7), (3, *extent, 3))
