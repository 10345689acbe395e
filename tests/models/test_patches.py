"""The patch embedding: on a TPU a product cuts rows of pixels up, elsewhere they are moved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.models.patches import embed_rows

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("clip", "patch"), [((4, 8, 20), (2, 4, 4)), ((3, 6, 15), (1, 2, 3)), ((2, 4, 4), (2, 4, 4))]
)
def test_cut_by_a_product_a_patch_is_embedded_as_by_a_convolution(
    clip: tuple[int, ...], patch: tuple[int, ...], dtype: str
) -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    clips = jax.random.normal(keys[0], (2, *clip, 3), dtype)
    kernel = jax.random.normal(keys[1], (*patch, 3, 8), dtype)

    def convolved(clips: jax.Array, kernel: jax.Array) -> jax.Array:
        # In float32, whose sums bfloat16 rounds once, as a product does.
        clips, kernel = clips.astype(jnp.float32), kernel.astype(jnp.float32)
        names = ("NDHWC", "DHWIO", "NDHWC")
        return jax.lax.conv_general_dilated(
            clips, kernel, patch, "VALID", dimension_numbers=names
        ).astype(dtype)

    ours, wanted = embed_rows(clips, kernel), convolved(clips, kernel)
    assert ours.dtype == wanted.dtype
    weights = jax.random.normal(keys[2], wanted.shape, dtype)
    tolerance = 1e-5 if dtype == "float32" else 1e-2

    def gradient(embed: object) -> jax.Array:
        return jax.grad(lambda kernel: (embed(clips, kernel) * weights).sum())(kernel)

    for one, other in ((ours, wanted), (gradient(embed_rows), gradient(convolved))):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())
