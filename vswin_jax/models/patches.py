"""From pixels to tokens, and from tokens to fewer of them: patch embedding and patch merging.

Source: Video Swin Transformer, section 3, and the reference's `swin_transformer.py`.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from vswin_jax.attention import Size
from vswin_jax.models.norm import LayerNorm
from vswin_jax.models.settings import BlockSettings, pin_tokens
from vswin_jax.runtime.target_platform import target_platform


def _torch_conv_init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """PyTorch's default for a convolution, uniform in +-1/sqrt(fan in)."""
    bound = 1 / math.sqrt(math.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Projection(nn.Module):
    """The patch embedding's convolution, whose kernel is its stride: one matrix product."""

    features: int
    patch_size: Size
    settings: BlockSettings

    @nn.compact
    def __call__(self, clips: jax.Array) -> jax.Array:
        """`[B, T, H, W, c]`, whole patches, to `[B, D, H', W', features]`."""
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
            return embed_rows(clips, kernel) + bias
        (nd, nh, nw), (pd, ph, pw) = map(int.__floordiv__, extent, self.patch_size), self.patch_size
        # Pixels of a row and their channels stay together: as two axes they take a CPU four times
        # as long to move.
        patches = clips.reshape(batch, nd, pd, nh, ph, nw, pw * channels)
        patches = patches.transpose(0, 1, 3, 5, 2, 4, 6).reshape(batch, nd, nh, nw, -1)
        return self.settings.product(patches, kernel.reshape(-1, self.features)) + bias


def embed_rows(clips: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[B, T, H, W, c]` by `[pd, ph, pw, c, features]`: `[B, D, H', W', features]`, for TPUs.

    A row of pixels lies in the lanes of a TPU. To move them apart it would pad the `pw` pixels of
    a patch to 128 lanes; a product with ones and zeros, which is exact, has a fifth of the traffic.
    """
    (pd, ph, pw), (batch, frames, height, width, channels) = kernel.shape[:3], clips.shape
    places = jnp.eye(width, dtype=clips.dtype).reshape(width, width // pw, pw)
    rows = jnp.einsum("btyxc,xwr->btcyrw", clips, places, precision=jax.lax.Precision.HIGHEST)
    rows = rows.reshape(batch, frames // pd, pd, channels, height // ph, ph, pw, width // pw)
    return jnp.einsum("bdpchqrw,pqrcf->bdhwf", rows, kernel)


class PatchEmbed(nn.Module):
    """Cuts a clip into patches and embeds each; zero-pads the end of each axis to whole ones."""

    features: int
    patch_size: Size
    normalize: bool
    settings: BlockSettings

    @nn.compact
    def __call__(self, clips: jax.Array) -> jax.Array:
        """`[B, T, H, W, 3]` to `[B, D, H', W', features]`."""
        extent = clips.shape[1:4]
        growth = [(0, -size % patch) for size, patch in zip(extent, self.patch_size, strict=True)]
        if any(after for _, after in growth):
            clips = jnp.pad(clips, [(0, 0), *growth, (0, 0)])
        x = Projection(self.features, self.patch_size, self.settings, name="proj")(clips)
        return LayerNorm(self.settings.dtype, name="norm")(x) if self.normalize else x


class PatchMerging(nn.Module):
    """Joins 2 x 2 neighbours in space and halves the channels; time is untouched."""

    settings: BlockSettings

    @nn.compact
    def __call__(self, quads: jax.Array) -> jax.Array:
        """`[B, D, H, W, 4, C]`, the four with height varying fastest, to `[B, D, H, W, 2C]`."""
        channels = quads.shape[-1]
        # Else a TPU moves the tokens to their quads in float32, as the norm wants them.
        x = jax.lax.optimization_barrier(quads.reshape(*quads.shape[:-2], 4 * channels))
        x = pin_tokens(LayerNorm(self.settings.dtype, name="norm")(x), "channels")
        x = self.settings.dense(2 * channels, "reduction", use_bias=False)(x)
        return pin_tokens(x, "channels")


def map_to_quads(x: jax.Array) -> jax.Array:
    """`[B, D, H, W, C]` to `[B, D, ceil(H/2), ceil(W/2), 4, C]`, padded with zeros at the end."""
    batch, depth, height, width, channels = x.shape
    if height % 2 or width % 2:
        x = jnp.pad(x, [(0, 0), (0, 0), (0, height % 2), (0, width % 2), (0, 0)])
    height, width = x.shape[2] // 2, x.shape[3] // 2
    x = x.reshape(batch, depth, height, 2, width, 2, channels).transpose(0, 1, 2, 4, 5, 3, 6)
    # The reference's order of the four: height varies fastest.
    return x.reshape(batch, depth, height, width, 4, channels)
