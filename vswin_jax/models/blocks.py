"""The Video Swin block: window attention and an MLP, each a residual branch.

Source: Video Swin Transformer, section 3, and the reference's `swin_transformer.py`. Parameters
are float32 whatever the compute dtype; LayerNorm statistics are float32.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Float32, PRNGKeyArray

from vswin_jax.attention import WindowGeometry
from vswin_jax.kernels import BranchParams, NormDenseParams, add_branches, norm_dense, should_fuse
from vswin_jax.models.attention_layer import (
    BIAS_TABLE,
    Qkv,
    attend,
    schedule_after,
)
from vswin_jax.models.attention_registry import allows_fast_path, build_attention_layer
from vswin_jax.models.mlp import Mlp
from vswin_jax.models.norm import EPSILON, LayerNorm
from vswin_jax.models.settings import BlockSettings, constrain_tokens
from vswin_jax.models.window_groups import WindowGroup, map_window_groups, windows_per_group

# The name by which a remat policy may keep the tokens between the two branches.
BETWEEN = "between branches"


def sample_drop_path(
    key: PRNGKeyArray, rates: Sequence[float], batch: int
) -> Float32[Array, "blocks 2 B"]:
    """Sample the stochastic depth factors of both branches of each block for each clip.

    A factor is 0 (the branch is dropped) with probability `rate` of its block, else 1 / (1 - rate).
    """
    keep_rates = 1 - jnp.asarray(rates, jnp.float32)[:, None, None]
    return jax.random.bernoulli(key, keep_rates, (len(rates), 2, batch)) / keep_rates


def drop_path(
    branch: Float[Array, " B *tokens"], factors: Float[Array, " B"] | None
) -> Float[Array, " B *tokens"]:
    """Apply stochastic depth: drop the whole branch of a clip, or scale it up.

    `factors` are those of `sample_drop_path`; None leaves `branch` as it is.
    """
    if factors is None:
        return branch
    factors = factors.astype(branch.dtype).reshape(-1, *[1] * (branch.ndim - 1))
    # `where`, since 0 * inf is NaN: a dropped branch with non-finite values must give zeros.
    return jnp.where(factors > 0, branch * factors, 0)


class SwinBlock(nn.Module):
    """Attention in (shifted) windows and an MLP, each a pre-norm residual branch.

    Attributes:
      in_windows: Tokens are in window order, `[B, windows, N, C]`, instead of raster order,
        `[B, D, H, W, C]`.
    """

    num_heads: int
    geometry: WindowGeometry | WindowGroup
    in_windows: bool
    settings: BlockSettings

    def setup(self) -> None:
        """Declare the layers under the names of the released checkpoints."""
        dtype = self.settings.dtype
        self.norm1, self.norm2 = LayerNorm(dtype), LayerNorm(dtype)
        self.attn = build_attention_layer(
            self.settings.attention_layer, self.num_heads, self.settings
        )
        self.mlp = Mlp(self.settings)

    def __call__(
        self,
        x: Float[Array, "B *tokens C"],
        train: bool,
        factors: Float[Array, "2 B"] | None = None,
    ) -> Float[Array, "B *tokens C"]:
        """Add both branches to the tokens, which stay in their order.

        `factors` are those of stochastic depth, or None without it.

        Padding to whole windows comes after the norm, as in the reference: the query, key and value
        of a padded token are the projection's bias, and other tokens attend to it.
        """
        group_size = self._group_size(x, train)
        if group_size is not None:
            return self._call_by_group(x, group_size)
        x = constrain_tokens(x, "channels")
        # The kernels only read parameters: initialisation must call the layers, which create them.
        if not self.is_initializing() and self._uses_kernels(x, train):
            return self._call_kernels(x, factors)
        first, second = (None, None) if factors is None else factors
        x = x + drop_path(self._attention(self.norm1(x), train), first)
        x = checkpoint_name(x, BETWEEN)
        return x + drop_path(self.mlp(self.norm2(x), train), second)

    def _attention(self, x: jax.Array, train: bool) -> jax.Array:
        if self.in_windows:
            return self.attn(x, self.geometry, train)
        windows = self.geometry.partition(x)
        return self.geometry.merge(self.attn(windows, self.geometry, train))

    def _group_size(self, x: jax.Array, train: bool) -> int | None:
        """Return the number of windows that are processed at a time; None for all at once."""
        if not self.in_windows or self.is_initializing() or not self.settings.uses_groups(train):
            return None
        return windows_per_group(x, self.settings.hidden(x.shape[-1]))

    def _call_by_group(self, x: jax.Array, group_size: int) -> jax.Array:
        """Apply the block, without dropout, to `group_size` windows at a time."""
        params = self.variables["params"]

        def call_group(windows: jax.Array, group: WindowGroup) -> jax.Array:
            block = self.clone(parent=None, name=None, geometry=group)
            return block.apply({"params": params}, windows, False)

        # Without the barrier XLA builds the biases of all blocks at once, before there are tokens.
        x, table = schedule_after(x, params["attn"][BIAS_TABLE])
        bias = self.geometry.bias(table, self.settings.relative_position)
        return map_window_groups(call_group, x, group_size, self.geometry.segment_ids, bias)

    def _uses_kernels(self, x: jax.Array, train: bool) -> bool:
        settings = self.settings
        has_dropout = train and settings.drop_rate + settings.attn_drop_rate > 0
        if not should_fuse(settings.tokenwise, x, settings.hidden(x.shape[-1]), has_dropout):
            return False
        return allows_fast_path(settings.attention_layer, "fusing the other layers of a block")

    def _call_kernels(self, x: jax.Array, factors: jax.Array | None) -> jax.Array:
        """Apply the block by fused kernels, which take the parameters of the layers."""
        layers = (self.norm1, self.attn, self.norm2, self.mlp)
        params = tuple(layer.variables["params"] for layer in layers)
        # Without the barrier XLA casts the weights of all blocks at once, before there are tokens.
        _, (norm1, attn, norm2, mlp) = schedule_after(x, params)
        qkv, x = self._qkv(x, norm1, attn["qkv"])
        attended = attend(qkv, attn[BIAS_TABLE], self.geometry, self.settings)
        if not self.in_windows:
            attended = self.geometry.merge(attended)
        proj, fc1, fc2 = attn["proj"], mlp["fc1"], mlp["fc2"]
        weights = BranchParams(
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
        """Return qkv `[B, windows, N, 3, heads, dim]`, and `x` for the residual branch."""
        split = (3, self.num_heads, x.shape[-1] // self.num_heads)
        if not self.in_windows:
            qkv = Qkv(self.num_heads, self.settings, parent=None)
            return qkv.apply({"params": dense}, self.geometry.partition(self.norm1(x))), x
        bias = dense.get("bias", jnp.zeros(3 * x.shape[-1]))
        weights = NormDenseParams(norm["scale"], norm["bias"], dense["kernel"], bias)
        out, x = norm_dense(x, weights, EPSILON)
        return out.reshape(*out.shape[:-1], *split), x
