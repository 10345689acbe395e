"""The window attention layer: qkv projection, relative position bias and output projection.

Source: Video Swin Transformer, section 3, and the reference's `swin_transformer.py`.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from vswin_jax.attention import ATTENTION_OUT, WindowGeometry, table_rows, window_attention
from vswin_jax.models.attention_registry import REFERENCE, register_attention
from vswin_jax.models.settings import KERNEL_INITS, BlockSettings, constrain_tokens
from vswin_jax.models.window_groups import WindowGroup
from vswin_jax.runtime.target_platform import targets_gpu
from vswin_jax.sharding.constraints import constrain, is_sharded
from vswin_jax.sharding.shard_map_wrappers import shard_map_batch

# The name by which a remat policy may keep the input of attention; its output is ATTENTION_OUT.
QKV = "qkv"

BIAS_TABLE = "relative_position_bias_table"


# All windows of a block, or a group of them.
Geometry = WindowGeometry | WindowGroup


class Qkv(nn.Module):
    """The qkv projection, a linear layer whose columns are `[3, heads, dim]`."""

    num_heads: int
    settings: BlockSettings

    @nn.compact
    def __call__(self, x: Float[Array, "B W N C"]) -> Float[Array, "B W N 3 heads dim"]:
        """Project tokens in windows to queries, keys and values of each head."""
        channels, kernel_init = x.shape[-1], KERNEL_INITS[self.settings.kernel_init]
        split = (3, self.num_heads, channels // self.num_heads)
        kernel = self.param("kernel", kernel_init, (channels, 3 * channels), jnp.float32)
        bias = None
        if self.settings.qkv_bias:
            bias = self.param("bias", nn.initializers.zeros, (3 * channels,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.settings.dtype)
        if not is_sharded("heads", self.num_heads):
            # Flat columns: with an axis `dim` a TPU would pad it to 128 lanes, and then copy the
            # padded array into the layout that the kernels read.
            out = self.settings.matmul(x, kernel)
            out = out if bias is None else out + bias
            return constrain(out, "batch", "any", "any", "channels").reshape(*x.shape[:-1], *split)
        kernel = self._reshard_by_head(kernel.reshape(channels, *split))
        out = jnp.einsum("bwnc,cshd->bwnshd", x, kernel)
        if bias is not None:
            out = out + constrain(bias.reshape(split), "qkv", "heads", "dim")
        return constrain(out, "batch", "any", "any", "qkv", "heads", "dim")

    def _reshard_by_head(self, kernel: jax.Array) -> jax.Array:
        """Reshard the kernel `[C, 3, heads, dim]` from rows to heads.

        It is stored by rows, since no contiguous slice of flat columns holds whole heads.
        """
        # Both constraints are needed: the all-to-all is between them, for the gradient as well.
        kernel = constrain(kernel, "rows", "qkv", "all heads", "dim")
        return constrain(kernel, "channels", "qkv", "heads", "dim")


@jax.custom_vjp
def schedule_after(x: Any, y: Any) -> tuple[Any, Any]:
    """Tie the trees `x` and `y` by an optimization barrier; return both.

    XLA computes no use of either before both exist. Gradients are not tied.
    """
    return jax.lax.optimization_barrier((x, y))


schedule_after.defvjp(lambda x, y: (schedule_after(x, y), None), lambda _, gradients: gradients)


def _schedule_table_after_qkv(qkv: jax.Array, table: ArrayLike) -> tuple[jax.Array, ArrayLike]:
    """Name `qkv` for remat policies, and delay all uses of `table` until `qkv` exists.

    Otherwise XLA computes the biases of all blocks at once, before there are any tokens. A GPU
    needs no barrier: early biases cost nothing there, and the barrier would keep the qkv projection
    from fusing with the slices that cut its result into queries, keys and values.
    """
    if targets_gpu():
        return checkpoint_name(qkv, QKV), table
    shape = qkv.shape
    if not is_sharded("heads", shape[4]):
        # A TPU would pad `dim` to 128 lanes here, and then copy the padded array into the layout
        # that the kernels read.
        qkv = qkv.reshape(*shape[:3], -1)
    # The table gets the name too: the barrier returns it together with qkv, so a policy that did
    # not keep the table would compute qkv again to get it.
    qkv, table = checkpoint_name(schedule_after(qkv, table), QKV)
    return qkv.reshape(shape), table


def attend(
    qkv: Float[Array, "B W N 3 heads dim"],
    table: Float[Array | np.ndarray, "offsets heads"],
    geometry: Geometry,
    settings: BlockSettings,
    dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, "B W N heads*dim"]:
    """Attend within windows; `table` is the relative position bias table.

    With `dropout_key`, dropout is applied to the attention weights.
    """

    def attend_batch(
        qkv: jax.Array, table: ArrayLike, segment_ids: jax.Array | np.ndarray | None
    ) -> jax.Array:
        return window_attention(
            qkv,
            geometry.bias(table, settings.relative_position),
            segment_ids,
            scale=settings.qk_scale,
            implementation=settings.attention,
            dropout_key=dropout_key,
            dropout_rate=settings.attn_drop_rate,
        )

    # Dropout is drawn for the whole batch at once, so it excludes shard_map. Inside shard_map the
    # bias is built on each device, so the gradient summed over devices is that of the table and
    # not that of the bias, which is 60 times as large for windows of 8 x 7 x 7.
    has_dropout = dropout_key is not None
    attend_shards = attend_batch if has_dropout else partial(shard_map_batch, attend_batch)
    if settings.recompute_attention:
        attend_shards = jax.checkpoint(
            attend_shards, policy=jax.checkpoint_policies.save_only_these_names(ATTENTION_OUT)
        )
    qkv, table = _schedule_table_after_qkv(qkv, table)
    out = geometry.attend(attend_shards, qkv, table)
    return out.reshape(*out.shape[:3], -1)


class AttentionLayer(nn.Module):
    """The base of registered attention layers, whose options are the fields of the subclass.

    A subclass has one method, `@nn.compact __call__`, from tokens in windows `[B, W, N, C]` to
    tokens in the same places. Its parameters may depend on `num_heads`, on `settings.window_size`
    and on C, but not on W and N: a short or small clip has windows of fewer tokens. The methods
    below are the parts of the layer of the paper, to be called from there.
    """

    num_heads: int
    settings: BlockSettings

    @nn.nowrap
    def qkv(self, x: Float[Array, "B W N C"]) -> Float[Array, "B W N 3 heads dim"]:
        """Project tokens to queries, keys and values of each head."""
        return Qkv(self.num_heads, self.settings, name="qkv")(x)

    @nn.nowrap
    def bias_table(self) -> Float[Array, "offsets heads"]:
        """Return the learned table of relative position biases."""
        shape = (table_rows(self.settings.window_size), self.num_heads)
        return self.param(BIAS_TABLE, KERNEL_INITS["reference"], shape, jnp.float32)

    @nn.nowrap
    def attend(
        self,
        qkv: Float[Array, "B W N 3 heads dim"],
        table: Float[Array, "offsets heads"],
        geometry: Geometry,
        train: bool,
        scale: float | None = None,
    ) -> Float[Array, "B W N C"]:
        """Attend within each window, by the implementation that is the fastest one here.

        `scale` multiplies the queries; None is that of the model.
        """
        settings = self.settings if scale is None else replace(self.settings, qk_scale=scale)
        has_dropout = train and settings.attn_drop_rate > 0
        dropout_key = self.make_rng("dropout") if has_dropout else None
        return attend(qkv, table, geometry, settings, dropout_key)

    @nn.nowrap
    def project(
        self, out: Float[Array, "B W N C"], geometry: Geometry, train: bool
    ) -> Float[Array, "B W N C"]:
        """Apply the output projection and its dropout."""
        out = self.settings.dense(out.shape[-1], "proj")(out)
        out = constrain_tokens(out, "channels")
        dropout = nn.Dropout(self.settings.drop_rate, deterministic=not train)
        return geometry.apply_in_window_order(dropout, out)


@register_attention(REFERENCE)
class WindowAttention(AttentionLayer):
    """Multi-head self-attention in windows, with a learned relative position bias."""

    @nn.compact
    def __call__(
        self, windows: Float[Array, "B W N C"], geometry: Geometry, train: bool
    ) -> Float[Array, "B W N C"]:
        """Attend within each of the windows of `geometry`."""
        table = self.bias_table()
        out = self.attend(self.qkv(windows), table, geometry, train)
        return self.project(out, geometry, train)
