"""Settings and linear layers that all blocks of a model share."""

from dataclasses import dataclass

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vswin_jax.attention import ClipSharding, HeadGroups, Size, SplitGeometry, WindowGeometry
from vswin_jax.models import initial_draws
from vswin_jax.models.attention_registry import allows_fast_path
from vswin_jax.runtime.target_platform import targets_one_cpu
from vswin_jax.sharding.constraints import constrain

# The reference truncates its normal at +-2, which is 100 standard deviations: a plain normal is the
# same. It suits widths of 96 and more. In a narrow model every branch starts so near to linear that
# training from scratch stalls; with "lecun", a variance of 1/fan-in, it does not.
KERNEL_INITS = {
    "reference": initial_draws.normal(0.02),
    "lecun": initial_draws.lecun_normal(),
}


@dataclass(frozen=True)
class BlockSettings:
    """The settings that all blocks of a model share, as documented in `SwinTransformer3D`."""

    window_size: Size
    mlp_ratio: float
    qkv_bias: bool
    qk_scale: float | None
    drop_rate: float
    attn_drop_rate: float
    relative_position: str
    attention: str
    attention_layer: str
    tokenwise: str
    kernel_init: str
    dtype: DTypeLike
    recompute_attention: bool
    token_order: str
    clip_sharding: ClipSharding | None

    def geometry(self, grid: Size, shift: Size, train: bool) -> WindowGeometry:
        """Return the windows of a block over `grid`, on one device or split over several."""
        whole = WindowGeometry.create(grid, self.window_size, shift)
        if self.clip_sharding:
            return SplitGeometry.from_geometry(whole, self.clip_sharding)
        return HeadGroups.from_geometry(whole) if self.uses_groups(train) else whole

    def uses_groups(self, train: bool) -> bool:
        """Return True if a block processes its windows, or its heads, in groups to save memory."""
        if train or self.clip_sharding:
            return False
        if not (self.tokenwise == "chunked" or (self.tokenwise == "auto" and targets_one_cpu())):
            return False
        return allows_fast_path(self.attention_layer, "processing windows in groups")

    def hidden(self, channels: int) -> int:
        """Return the hidden channels of an MLP on tokens of `channels`."""
        return int(channels * self.mlp_ratio)

    def dense(self, features: int, name: str, use_bias: bool = True) -> nn.Dense:
        """Build a linear layer with the model's initialisation and compute dtype."""
        kernel_init = KERNEL_INITS[self.kernel_init]
        return nn.Dense(
            features,
            use_bias=use_bias,
            kernel_init=kernel_init,
            dtype=self.dtype,
            dot_general=lambda x, kernel, *_, **__: self.matmul(x, kernel),
            name=name,
        )

    def matmul(
        self, x: Float[Array, "*tokens C"], kernel: Float[Array, "C D"]
    ) -> Float[Array, "*tokens D"]:
        """Multiply tokens by the kernel of a linear layer."""
        if self.clip_sharding is not None:
            # The tokens are sharded along two of their axes, which cannot be flattened to one.
            return x @ kernel
        # The kernel's gradient sums over all axes of tokens. Over more than one, XLA transposes
        # the tokens first, and on a CPU that takes up to three times as long as the product.
        return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def constrain_tokens(x: Float[Array, "B *tokens C"], last: str) -> Float[Array, "B *tokens C"]:
    """Constrain tokens to the batch sharding, whatever the sharding of the parameters.

    `last` names the last axis, as in `sharding.constraints.ACTIVATIONS`.
    """
    return constrain(x, "batch", *["any"] * (x.ndim - 2), last)
