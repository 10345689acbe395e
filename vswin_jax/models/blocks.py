"""The block of Video Swin: attention in windows and an MLP.

Source: Video Swin Transformer, section 3, and the reference's `swin_transformer.py`. Parameters
are float32 whatever the compute dtype; LayerNorm statistics are float32.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from vswin_jax.attention import WindowGeometry
from vswin_jax.kernels import Branches, NormDense, add_branches, fuses, norm_dense
from vswin_jax.models.attention_layer import TABLE, Qkv, WindowAttention, attend, once_both_exist
from vswin_jax.models.mlp import Mlp
from vswin_jax.models.norm import EPSILON, LayerNorm
from vswin_jax.models.settings import BlockSettings, pin_tokens
from vswin_jax.models.window_groups import WindowGroup, over_groups, windows_together

# The name by which a remat policy may keep the tokens between the two branches.
BETWEEN = "between branches"


def draw_depth(key: jax.Array, rates: Sequence[float], batch: int) -> jax.Array:
    """Factors of both branches of blocks for each clip, float32 `[blocks, 2, batch]`.

    They are 0 where the branch is dropped, with the rate of the block, and else 1 / (1 - rate).
    """
    kept = 1 - jnp.asarray(rates, jnp.float32)[:, None, None]
    return jax.random.bernoulli(key, kept, (len(rates), 2, batch)) / kept


def drop_path(branch: jax.Array, factors: jax.Array | None) -> jax.Array:
    """Stochastic depth of `[B, ...]`: a clip's whole branch is dropped, or scaled up.

    `factors` are those of `draw_depth`, `[B]`; None keeps all as it is.
    """
    if factors is None:
        return branch
    factors = factors.astype(branch.dtype).reshape(-1, *[1] * (branch.ndim - 1))
    # A branch that is not finite does not harm the clips that drop it.
    return jnp.where(factors > 0, branch * factors, 0)


class SwinBlock(nn.Module):
    """Attention in (shifted) windows and an MLP, each a residual branch behind a LayerNorm.

    Attributes:
      in_windows: tokens come and go in the windows of `geometry`, not as a map.
    """

    num_heads: int
    geometry: WindowGeometry | WindowGroup
    in_windows: bool
    settings: BlockSettings

    def setup(self) -> None:
        """Declares the layers under the names of the released checkpoints."""
        dtype = self.settings.dtype
        self.norm1, self.norm2 = LayerNorm(dtype), LayerNorm(dtype)
        self.attn = WindowAttention(self.num_heads, self.settings)
        self.mlp = Mlp(self.settings)

    def __call__(self, x: jax.Array, train: bool, factors: jax.Array | None = None) -> jax.Array:
        """`[B, D, H, W, C]`, or `[B, windows, N, C]` in windows, to the same.

        `factors` `[2, B]` are those of stochastic depth, or None without it.

        Padding to whole windows comes after the norm, as in the reference: padded tokens have
        the query, key and value of the projection's bias, and are attended to.
        """
        together = self._windows_together(x, train)
        if together is not None:
            return self._group_by_group(x, together)
        x = pin_tokens(x, "channels")
        # Where layers have no parameters yet they are called, to get them.
        if not self.is_initializing() and self._fuses(x, train):
            return self._fused(x, factors)
        first, second = (None, None) if factors is None else factors
        x = x + drop_path(self._attention(self.norm1(x), train), first)
        x = checkpoint_name(x, BETWEEN)
        return x + drop_path(self.mlp(self.norm2(x), train), second)

    def _attention(self, x: jax.Array, train: bool) -> jax.Array:
        if self.in_windows:
            return self.attn(x, self.geometry, train)
        windows = self.geometry.partition(x)
        return self.geometry.merge(self.attn(windows, self.geometry, train))

    def _windows_together(self, x: jax.Array, train: bool) -> int | None:
        """How many windows go through the block at a time; None where all do."""
        if not self.in_windows or self.is_initializing() or not self.settings.takes_groups(train):
            return None
        return windows_together(x, self.settings.hidden(x.shape[-1]))

    def _group_by_group(self, x: jax.Array, together: int) -> jax.Array:
        """The same, without dropout, for `together` windows at a time."""
        params = self.variables["params"]

        def of_group(windows: jax.Array, group: WindowGroup) -> jax.Array:
            block = self.clone(parent=None, name=None, geometry=group)
            return block.apply({"params": params}, windows, False)

        # Not before the tokens are there: else the biases of all blocks would be made at once.
        x, table = once_both_exist(x, params["attn"][TABLE])
        bias = self.geometry.bias(table, self.settings.relative_position)
        return over_groups(of_group, x, together, self.geometry.region_ids, bias)

    def _fuses(self, x: jax.Array, train: bool) -> bool:
        settings = self.settings
        drops = train and settings.drop_rate + settings.attn_drop_rate > 0
        return fuses(settings.tokenwise, x, settings.hidden(x.shape[-1]), drops)

    def _fused(self, x: jax.Array, factors: jax.Array | None) -> jax.Array:
        """The same by kernels that take the layers' parameters."""
        layers = (self.norm1, self.attn, self.norm2, self.mlp)
        params = tuple(layer.variables["params"] for layer in layers)
        # Not before the tokens are there: else the weights of all blocks would be cast at once.
        _, (norm1, attn, norm2, mlp) = once_both_exist(x, params)
        qkv, x = self._qkv(x, norm1, attn["qkv"])
        attended = attend(qkv, attn[TABLE], self.geometry, self.settings)
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
