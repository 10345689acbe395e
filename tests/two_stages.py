"""A model of two small stages and clips for it, for tests of token order and window groups."""

import jax

# The first stage ends with a regular block, the second with a shifted one.
TWO_STAGES = {"embed_dim": 8, "depths": (3, 2), "num_heads": (1, 2), "window_size": (2, 3, 3)}
# Whole windows in both stages; only in the first, then odd; padded in both.
CLIPS = [(4, 24, 48), (4, 36, 36), (5, 30, 17)]


def random_clips(extent: tuple[int, int, int]) -> jax.Array:
    """Draw a batch of three clips, `[3, *extent, 3]`."""
    return jax.random.normal(jax.random.key(7), (3, *extent, 3))
