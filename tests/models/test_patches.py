"""The patch embedding for TPUs against a convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.models.patches import embed_patches_tpu


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("clip", "patch"), [((4, 8, 20), (2, 4, 4)), ((3, 6, 15), (1, 2, 3)), ((2, 4, 4), (2, 4, 4))]
)
def test_tpu_patch_embedding_equals_a_convolution(
    clip: tuple[int, ...], patch: tuple[int, ...], dtype: str
) -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    clips = jax.random.normal(keys[0], (2, *clip, 3), dtype)
    kernel = jax.random.normal(keys[1], (*patch, 3, 8), dtype)

    def convolved(clips: jax.Array, kernel: jax.Array) -> jax.Array:
        # In float32: a bfloat16 matrix product also rounds only once, after the sum.
        clips, kernel = clips.astype(jnp.float32), kernel.astype(jnp.float32)
        names = ("NDHWC", "DHWIO", "NDHWC")
        return jax.lax.conv_general_dilated(
            clips, kernel, patch, "VALID", dimension_numbers=names
        ).astype(dtype)

    ours, expected = embed_patches_tpu(clips, kernel), convolved(clips, kernel)
    assert ours.dtype == expected.dtype
    weights = jax.random.normal(keys[2], expected.shape, dtype)
    tolerance = 1e-5 if dtype == "float32" else 1e-2

    def gradient(embed: object) -> jax.Array:
        return jax.grad(lambda kernel: (embed(clips, kernel) * weights).sum())(kernel)

    for one, other in ((ours, expected), (gradient(embed_patches_tpu), gradient(convolved))):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())
