"""The block of Video Swin: attention in windows and an MLP.

Source: Video Swin Transformer, section 3, and the reference's `swin_transformer.py`. Parameters
are float32 whatever the compute dtype; LayerNorm statistics are float32.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.ad_checkpoint import checkpoint_name

from vswin_jax.attention import (
    ATTENDED,
    ClipSharding,
    Size,
    SplitGeometry,
    WindowGeometry,
    relative_position_bias,
    table_rows,
    window_attention,
)
from vswin_jax.layout import pin, splits
from vswin_jax.models.norm import EPSILON, LayerNorm
from vswin_jax.spreading import on_each_batch
from vswin_jax.tokenwise import Branches, NormDense, add_branches, fuses, norm_dense
from vswin_jax.tokenwise.arithmetic import gelu, gelu_and_slope

# The reference truncates at +-2, a hundred deviations away: a plain normal. It suits widths of 96
# and more; in a narrow model every branch starts so near to linear that training from scratch
# stalls, and a variance of 1/fan-in does not.
KERNEL_INITS = {
    "reference": nn.initializers.normal(0.02),
    "lecun": nn.initializers.lecun_normal(),
}

# The names by which a remat policy may keep what goes into attention, the tokens between the two
# branches, and the MLP's hidden ones before GELU. What attention gives has the name ATTENDED.
QKV, BETWEEN, HIDDEN = "qkv", "between branches", "hidden"

_TABLE = "relative_position_bias_table"


@dataclass(frozen=True)
class BlockSettings:
    """What all blocks of a model share; see `SwinTransformer3D` for each."""

    window_size: Size
    mlp_ratio: float
    qkv_bias: bool
    qk_scale: float | None
    drop_rate: float
    attn_drop_rate: float
    relative_position: str
    attention: str
    tokenwise: str
    kernel_init: str
    dtype: jnp.dtype
    recompute_attention: bool
    token_order: str
    clip_sharding: ClipSharding | None

    def geometry(self, grid: Size, shift: Size) -> WindowGeometry:
        """Where the windows of a block lie over `grid`, on one device or over several."""
        whole = WindowGeometry.create(grid, self.window_size, shift)
        return SplitGeometry.of(whole, self.clip_sharding) if self.clip_sharding else whole

    def dense(self, features: int, name: str, use_bias: bool = True) -> nn.Dense:
        """A linear layer with the model's initialisation and compute dtype."""
        kernel_init = KERNEL_INITS[self.kernel_init]
        return nn.Dense(
            features,
            use_bias=use_bias,
            kernel_init=kernel_init,
            dtype=self.dtype,
            dot_general=lambda x, kernel, *_, **__: self.product(x, kernel),
            name=name,
        )

    def product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Tokens `[..., C]` by `[C, D]`: `[..., D]`."""
        if self.clip_sharding is not None:
            return x @ kernel
        # The kernel's gradient sums over all axes of tokens. Over more than one, XLA transposes
        # the tokens first, and on a CPU that takes up to three times as long as the product. (Where
        # devices share a clip they hold a part of each of two axes, which do not become one.)
        return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def pin_tokens(x: jax.Array, last: str) -> jax.Array:
    """`[B, ..., last]`, pinned: clips stay where they are, whatever the layout of parameters."""
    return pin(x, "batch", *["any"] * (x.ndim - 2), last)


class DropPath(nn.Module):
    """Stochastic depth: drops the whole branch of a clip, and scales up the branches kept."""

    rate: float

    def draw(self, batch: int) -> jax.Array:
        """Factors of the branches of `batch` clips, float32 `[batch]`: 0, or 1 / (1 - rate)."""
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - self.rate, (batch,))
        return kept / jnp.float32(1.0 - self.rate)

    def __call__(self, x: jax.Array, train: bool, factors: jax.Array | None = None) -> jax.Array:
        """`[B, ...]` to the same; each of the B clips is drawn on its own.

        `factors`, those of `draw`, are given where they were drawn before.
        """
        if factors is None:
            if not train or self.rate == 0.0:
                return x
            factors = self.draw(len(x))
        factors = factors.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        # A branch that is not finite does not harm the clips that drop it.
        return jnp.where(factors > 0, x * factors, 0)


class Qkv(nn.Module):
    """The linear layer that makes queries, keys and values, its columns `[3, heads, dim]`."""

    num_heads: int
    settings: BlockSettings

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, windows, N, C]` to `[B, windows, N, 3, heads, C / heads]`."""
        channels, kernel_init = x.shape[-1], KERNEL_INITS[self.settings.kernel_init]
        split = (3, self.num_heads, channels // self.num_heads)
        kernel = self.param("kernel", kernel_init, (channels, 3 * channels), jnp.float32)
        bias = None
        if self.settings.qkv_bias:
            bias = self.param("bias", nn.initializers.zeros, (3 * channels,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.settings.dtype)
        if not splits("heads", self.num_heads):
            # Flat: a TPU would pad `dim` to 128 lanes, and copy all that to what the kernels read.
            out = self.settings.product(x, kernel)
            out = out if bias is None else out + bias
            return pin(out, "batch", "any", "any", "channels").reshape(*x.shape[:-1], *split)
        kernel = self._by_head(kernel.reshape(channels, *split))
        out = jnp.einsum("bwnc,cshd->bwnshd", x, kernel)
        if bias is not None:
            out = out + pin(bias.reshape(split), "kinds", "heads", "dim")
        return pin(out, "batch", "any", "any", "kinds", "heads", "dim")

    def _by_head(self, kernel: jax.Array) -> jax.Array:
        """`[C, 3, heads, dim]`, stored by rows since no run of flat columns holds whole heads."""
        # Both pins are needed: from the one to the other leads an all-to-all, and back as well.
        kernel = pin(kernel, "rows", "kinds", "all heads", "dim")
        return pin(kernel, "channels", "kinds", "heads", "dim")


@jax.custom_vjp
def _together(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both, when both are there; their gradients do not wait for each other."""
    return jax.lax.optimization_barrier((x, y))


_together.defvjp(lambda x, y: (_together(x, y), None), lambda _, gradients: gradients)


def _awaited(qkv: jax.Array, table: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both, of which a policy may keep the first: it then has the second as well.

    The biases of all blocks would else be made at once, before there are any tokens.
    """
    shape = qkv.shape
    if not splits("heads", shape[4]):
        # A TPU would pad `dim` to 128 lanes here, and copy all that to what the kernels read.
        qkv = qkv.reshape(*shape[:3], -1)
    # The table has the name too: it waits for qkv, which would be made again for it.
    qkv, table = checkpoint_name(_together(qkv, table), QKV)
    return qkv.reshape(shape), table


def attend(
    qkv: jax.Array,
    table: jax.Array,
    geometry: WindowGeometry,
    settings: BlockSettings,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """What attention in windows makes of `[B, windows, N, 3, heads, dim]`: `[B, windows, N, C]`.

    `table` is that of the relative position bias; with `dropout_key` weights are dropped.
    """

    def one_batch(
        qkv: jax.Array, table: jax.Array, region_ids: jax.Array | np.ndarray | None
    ) -> jax.Array:
        return window_attention(
            qkv,
            relative_position_bias(table, geometry, settings.relative_position),
            region_ids,
            scale=settings.qk_scale,
            implementation=settings.attention,
            dropout_key=dropout_key,
            dropout_rate=settings.attn_drop_rate,
        )

    # Dropout is drawn for all clips at once. Spread, the gradient that devices sum is that of the
    # table and not that of the bias, which is 70 times as large.
    spread = one_batch if dropout_key is not None else partial(on_each_batch, one_batch)
    if settings.recompute_attention:
        spread = jax.checkpoint(
            spread, policy=jax.checkpoint_policies.save_only_these_names(ATTENDED)
        )
    out = geometry.attend(spread, *_awaited(qkv, table))
    return out.reshape(*out.shape[:3], -1)


class WindowAttention(nn.Module):
    """Multi-head self-attention in windows, with a learned relative position bias."""

    num_heads: int
    settings: BlockSettings

    @nn.compact
    def __call__(self, windows: jax.Array, geometry: WindowGeometry, train: bool) -> jax.Array:
        """`[B, windows, N, C]` to the same."""
        settings, channels = self.settings, windows.shape[-1]
        table = self.param(
            _TABLE,
            KERNEL_INITS["reference"],
            (table_rows(settings.window_size), self.num_heads),
            jnp.float32,
        )
        qkv = Qkv(self.num_heads, settings, name="qkv")(windows)
        drops = train and settings.attn_drop_rate > 0
        dropout_key = self.make_rng("dropout") if drops else None
        out = attend(qkv, table, geometry, settings, dropout_key)
        out = settings.dense(channels, "proj")(out)
        out = pin_tokens(out, "channels")
        dropout = nn.Dropout(settings.drop_rate, deterministic=not train)
        return geometry.map_in_order(dropout, out)


@jax.custom_vjp
def _exact_gelu(x: jax.Array) -> jax.Array:
    """GELU as the reference computes it, whose gradient needs nothing but `x`."""
    return gelu(x)


def _gelu_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    # Else XLA would keep the erf of the forward pass, or of what remat computes again.
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    return (gradient * gelu_and_slope(x)[1],)


_exact_gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


class Mlp(nn.Module):
    """Two dense layers with an exact GELU between them."""

    settings: BlockSettings

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[..., C]` to the same."""
        settings, channels = self.settings, x.shape[-1]
        dropout = nn.Dropout(settings.drop_rate, deterministic=not train)
        x = settings.dense(int(channels * settings.mlp_ratio), "fc1")(x)
        x = checkpoint_name(pin_tokens(x, "hidden"), HIDDEN)
        x = dropout(_exact_gelu(x))
        x = settings.dense(channels, "fc2")(x)
        return dropout(pin_tokens(x, "channels"))


class SwinBlock(nn.Module):
    """Attention in (shifted) windows and an MLP, each a residual branch behind a LayerNorm.

    Attributes:
      in_windows: tokens come and go in the windows of `geometry`, not as a map.
    """

    num_heads: int
    geometry: WindowGeometry
    in_windows: bool
    drop_path_rate: float
    settings: BlockSettings

    def setup(self) -> None:
        """Declares the layers under the names of the released checkpoints."""
        dtype = self.settings.dtype
        self.norm1, self.norm2 = LayerNorm(dtype), LayerNorm(dtype)
        self.attn = WindowAttention(self.num_heads, self.settings)
        self.mlp = Mlp(self.settings)
        self.drop_path1 = DropPath(self.drop_path_rate)
        self.drop_path2 = DropPath(self.drop_path_rate)

    def draw(self, batch: int) -> jax.Array:
        """What a training call would draw of stochastic depth: float32 `[2, batch]`."""
        return jnp.stack([self.drop_path1.draw(batch), self.drop_path2.draw(batch)])

    def __call__(self, x: jax.Array, train: bool, factors: jax.Array | None = None) -> jax.Array:
        """`[B, D, H, W, C]`, or `[B, windows, N, C]` in windows, to the same.

        `factors`, those of `draw`, are given where they were drawn before.

        Padding to whole windows comes after the norm, as in the reference: padded tokens have
        the query, key and value of the projection's bias, and are attended to.
        """
        x = pin_tokens(x, "channels")
        # Where layers have no parameters yet they are called, to get them.
        if not self.is_initializing() and self._fuses(x, train):
            return self._fused(x, train, factors)
        first, second = (None, None) if factors is None else factors
        x = x + self.drop_path1(self._attention(self.norm1(x), train), train, first)
        x = checkpoint_name(x, BETWEEN)
        return x + self.drop_path2(self.mlp(self.norm2(x), train), train, second)

    def _attention(self, x: jax.Array, train: bool) -> jax.Array:
        if self.in_windows:
            return self.attn(x, self.geometry, train)
        windows = self.geometry.partition(x)
        return self.geometry.merge(self.attn(windows, self.geometry, train))

    def _fuses(self, x: jax.Array, train: bool) -> bool:
        settings = self.settings
        drops = train and settings.drop_rate + settings.attn_drop_rate > 0
        return fuses(settings.tokenwise, x, int(x.shape[-1] * settings.mlp_ratio), drops)

    def _fused(self, x: jax.Array, train: bool, factors: jax.Array | None) -> jax.Array:
        """The same by kernels that take the layers' parameters."""
        if factors is None and train and self.drop_path_rate > 0:
            factors = self.draw(len(x))
        layers = (self.norm1, self.attn, self.norm2, self.mlp)
        norm1, attn, norm2, mlp = (layer.variables["params"] for layer in layers)
        qkv, x = self._qkv(x, norm1, attn["qkv"])
        attended = attend(qkv, attn[_TABLE], self.geometry, self.settings)
        if not self.in_windows:
            attended = self.geometry.merge(attended)
        proj, fc1, fc2 = attn["proj"], mlp["fc1"], mlp["fc2"]
        weights = Branches(
            proj_kernel=proj["kernel"],
            proj_bias=proj["bias"],
            scale=norm2["scale"],
            norm_bias=norm2["bias"],
            kernel1=fc1["kernel"],
            bias1=fc1["bias"],
            kernel2=fc2["kernel"],
            bias2=fc2["bias"],
        )
        return add_branches(x, attended, factors, weights, EPSILON)

    def _qkv(self, x: jax.Array, norm: Any, dense: Any) -> tuple[jax.Array, jax.Array]:
        """`[B, windows, N, 3, heads, dim]`, and the tokens as the residual branch takes them."""
        split = (3, self.num_heads, x.shape[-1] // self.num_heads)
        if not self.in_windows:
            qkv = Qkv(self.num_heads, self.settings, parent=None)
            return qkv.apply({"params": dense}, self.geometry.partition(self.norm1(x))), x
        bias = dense.get("bias", jnp.zeros(3 * x.shape[-1]))
        weights = NormDense(norm["scale"], norm["bias"], dense["kernel"], bias)
        out, x = norm_dense(x, weights, EPSILON)
        return out.reshape(*out.shape[:-1], *split), x
