"""The layers around attention in windows: queries, keys and values, bias and projection.

Source: Video Swin Transformer, section 3, and the reference's `swin_transformer.py`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.ad_checkpoint import checkpoint_name

from vswin_jax.attention import ATTENDED, WindowGeometry, table_rows, window_attention
from vswin_jax.models.settings import KERNEL_INITS, BlockSettings, pin_tokens
from vswin_jax.runtime.target_platform import targets_gpu
from vswin_jax.sharding.constraints import pin, splits
from vswin_jax.sharding.per_device import on_each_batch

# The name by which a remat policy may keep what goes into attention; what comes out is ATTENDED.
QKV = "qkv"

TABLE = "relative_position_bias_table"


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
def once_both_exist(x: Any, y: Any) -> tuple[Any, Any]:
    """Both trees, when both are there; their gradients do not wait for each other."""
    return jax.lax.optimization_barrier((x, y))


once_both_exist.defvjp(lambda x, y: (once_both_exist(x, y), None), lambda _, gradients: gradients)


def _awaited(qkv: jax.Array, table: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both, of which a policy may keep the first: it then has the second as well.

    The biases of all blocks would else be made at once, before there are any tokens. To a GPU that
    does not matter, and there the layer's last step is one with cutting its result into three.
    """
    if targets_gpu():
        return checkpoint_name(qkv, QKV), table
    shape = qkv.shape
    if not splits("heads", shape[4]):
        # A TPU would pad `dim` to 128 lanes here, and copy all that to what the kernels read.
        qkv = qkv.reshape(*shape[:3], -1)
    # The table has the name too: it waits for qkv, which would be made again for it.
    qkv, table = checkpoint_name(once_both_exist(qkv, table), QKV)
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
            geometry.bias(table, settings.relative_position),
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
            TABLE,
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
