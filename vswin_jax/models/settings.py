"""What the layers of a model share: sizes, names of implementations, linear layers."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from vswin_jax.attention import ClipSharding, HeadGroups, Size, SplitGeometry, WindowGeometry
from vswin_jax.runtime.target_platform import targets_one_cpu
from vswin_jax.sharding.constraints import pin

# The reference truncates at +-2, a hundred deviations away: a plain normal. It suits widths of 96
# and more; in a narrow model every branch starts so near to linear that training from scratch
# stalls, and a variance of 1/fan-in does not.
KERNEL_INITS = {
    "reference": nn.initializers.normal(0.02),
    "lecun": nn.initializers.lecun_normal(),
}


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

    def geometry(self, grid: Size, shift: Size, train: bool) -> WindowGeometry:
        """Where the windows of a block lie over `grid`, on one device or over several."""
        whole = WindowGeometry.create(grid, self.window_size, shift)
        if self.clip_sharding:
            return SplitGeometry.of(whole, self.clip_sharding)
        return HeadGroups.of(whole) if self.takes_groups(train) else whole

    def takes_groups(self, train: bool) -> bool:
        """Whether some windows at a time go through a block, or some heads of all windows."""
        if train or self.clip_sharding:
            return False
        return self.tokenwise == "chunked" or (self.tokenwise == "auto" and targets_one_cpu())

    def hidden(self, channels: int) -> int:
        """The channels between the layers of an MLP on tokens of so many."""
        return int(channels * self.mlp_ratio)

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
