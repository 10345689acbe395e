"""Patch embedding and patch merging.

Source: Video Swin Transformer, section 3, and the reference's `swin_transformer.py`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vswin_jax.attention import Size
from vswin_jax.models.norm import LayerNorm
from vswin_jax.models.settings import BlockSettings, constrain_tokens
from vswin_jax.runtime.target_platform import target_platform


def _torch_conv_init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Draw PyTorch's default for a convolution, uniform in +-1/sqrt(fan in)."""
    bound = 1 / math.sqrt(math.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


Clips = Float[Array | np.ndarray, "B T H W c"]


class Projection(nn.Module):
    """The convolution of the patch embedding; patches do not overlap, so it is a matrix product."""

    features: int
    patch_size: Size
    settings: BlockSettings

    @nn.compact
    def __call__(self, clips: Clips) -> Float[Array, "B D H2 W2 features"]:
        """Embed each patch of clips that divide into whole patches."""
        batch, *extent, channels = clips.shape
        shape = (*self.patch_size, channels, self.features)
        kernel = self.param("kernel", _torch_conv_init, shape, jnp.float32)
        # The bias has the bound of the kernel's fan in, not of its own shape.
        bound = 1 / math.sqrt(math.prod(shape[:-1]))
        bias = self.param(
            "bias",
            lambda key: jax.random.uniform(key, (self.features,), jnp.float32, -bound, bound),
        )
        clips, kernel, bias = promote_dtype(clips, kernel, bias, dtype=self.settings.dtype)
        if target_platform() == "tpu":
            return embed_patches_tpu(clips, kernel) + bias
        (nd, nh, nw), (pd, ph, pw) = map(int.__floordiv__, extent, self.patch_size), self.patch_size
        # Pixels of a row and their channels stay one axis: on a CPU the transpose of two axes takes
        # four times as long.
        patches = clips.reshape(batch, nd, pd, nh, ph, nw, pw * channels)
        patches = patches.transpose(0, 1, 3, 5, 2, 4, 6).reshape(batch, nd, nh, nw, -1)
        return self.settings.matmul(patches, kernel.reshape(-1, self.features)) + bias


def embed_patches_tpu(
    clips: Clips, kernel: Float[Array, "pd ph pw c features"]
) -> Float[Array, "B T//pd H//ph W//pw features"]:
    """Embed patches by cutting rows of pixels with a one-hot matrix product, for TPUs.

    A row of pixels is along the lanes of a TPU. A transpose would pad the `pw` pixels of a patch to
    128 lanes; the product with ones and zeros is exact and has a fifth of the memory traffic.
    """
    (pd, ph, pw), (batch, frames, height, width, channels) = kernel.shape[:3], clips.shape
    one_hot = jnp.eye(width, dtype=clips.dtype).reshape(width, width // pw, pw)
    rows = jnp.einsum("btyxc,xwr->btcyrw", clips, one_hot, precision=jax.lax.Precision.HIGHEST)
    rows = rows.reshape(batch, frames // pd, pd, channels, height // ph, ph, pw, width // pw)
    return jnp.einsum("bdpchqrw,pqrcf->bdhwf", rows, kernel)


class PatchEmbed(nn.Module):
    """Patch embedding; clips are zero-padded at the end of each axis to whole patches."""

    features: int
    patch_size: Size
    normalize: bool
    settings: BlockSettings

    @nn.compact
    def __call__(self, clips: Clips) -> Float[Array, "B D H2 W2 features"]:
        """Cut clips into patches and embed each of them."""
        extent = clips.shape[1:4]
        padding = [(0, -size % patch) for size, patch in zip(extent, self.patch_size, strict=True)]
        if any(after for _, after in padding):
            clips = jnp.pad(clips, [(0, 0), *padding, (0, 0)])
        x = Projection(self.features, self.patch_size, self.settings, name="proj")(clips)
        return LayerNorm(self.settings.dtype, name="norm")(x) if self.normalize else x


class PatchMerging(nn.Module):
    """Patch merging: concatenates 2 x 2 spatial neighbours and projects 4C channels to 2C."""

    settings: BlockSettings

    @nn.compact
    def __call__(self, quads: Float[Array, "B D H W 4 C"]) -> Float[Array, "B D H W 2*C"]:
        """Merge the four neighbours of each quad, which are in the order of `grid_to_quads`."""
        channels = quads.shape[-1]
        # Without the barrier XLA converts to float32, the dtype of the norm, before the tokens are
        # rearranged to quads, and a TPU moves twice the bytes.
        x = jax.lax.optimization_barrier(quads.reshape(*quads.shape[:-2], 4 * channels))
        x = constrain_tokens(LayerNorm(self.settings.dtype, name="norm")(x), "channels")
        x = self.settings.dense(2 * channels, "reduction", use_bias=False)(x)
        return constrain_tokens(x, "channels")


def grid_to_quads(
    x: Float[Array, "B D H W C"],
) -> Float[Array, "B D (H+1)//2 (W+1)//2 4 C"]:
    """Group 2 x 2 spatial neighbours (space to depth); odd sizes are zero-padded at the end."""
    batch, depth, height, width, channels = x.shape
    if height % 2 or width % 2:
        x = jnp.pad(x, [(0, 0), (0, 0), (0, height % 2), (0, width % 2), (0, 0)])
    height, width = x.shape[2] // 2, x.shape[3] // 2
    x = x.reshape(batch, depth, height, 2, width, 2, channels).transpose(0, 1, 2, 4, 5, 3, 6)
    # Height varies fastest among the four, as in the reference.
    return x.reshape(batch, depth, height, width, 4, channels)
