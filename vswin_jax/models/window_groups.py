"""Blocks applied to one group of windows at a time, so that activations stay in the CPU's caches.

Windows of a block are independent, so all layers of the block can be applied to a few windows
before the next ones. On a CPU that takes a third of the memory of going layer by layer, and is
faster, above all for long clips. It is not for training: a backward pass would have to store the
activations of each group, or compute them again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from vswin_jax.attention.bias import RelativePosition
from vswin_jax.attention.chunked import largest_divisor
from vswin_jax.attention.geometry import Attend
from vswin_jax.sharding.constraints import is_sharded

# The float32 hidden activations of the MLP of one group, the largest array between two layers. With
# much less, the cores synchronise too often; with much more, it does not fit their shared cache.
_HIDDEN_BYTES = 8 * 2**20


@dataclass(frozen=True)
class WindowGroup:
    """A group of a block's windows, with the methods of `WindowGeometry` that attention calls.

    Attributes:
      segment_ids: The segment ids of these windows, integers `[windows, N]`, or None.
      window_bias: The relative position bias of a window, `[heads, N, N]`.
    """

    segment_ids: jax.Array | None
    window_bias: jax.Array

    def attend(
        self,
        attend: Attend,
        qkv: Float[Array, "B W N 3 heads dim"],
        table: Float[Array, "offsets heads"],
    ) -> Float[Array, "B W N heads dim"]:
        """Call `attend` on the windows of the group."""
        return attend(qkv, table, self.segment_ids)

    def bias(
        self, table: Float[Array, "offsets heads"], relative_position: RelativePosition
    ) -> Float[Array, "heads N N"]:
        """Return the bias of a window, which is the same for all groups and built only once."""
        return self.window_bias

    def apply_in_window_order(
        self, function: Callable[[jax.Array], jax.Array], windows: jax.Array
    ) -> jax.Array:
        """Call `function` on `[1, windows, ...]` as it is: groups have no dropout."""
        return function(windows)


def windows_per_group(x: Float[Array | jax.ShapeDtypeStruct, "B W N C"], hidden: int) -> int | None:
    """Return the number of windows in a group; None to process all windows at once.

    It is the largest number that fits `_HIDDEN_BYTES` and divides the windows; None if all windows
    fit, or if it is at most half of what would fit. `hidden` are the hidden channels of the MLP.
    """
    if is_sharded("batch", len(x)):
        return None
    windows, limit = x.shape[0] * x.shape[1], max(1, _HIDDEN_BYTES // (4 * hidden * x.shape[2]))
    group_size = largest_divisor(windows, limit)
    return group_size if limit // 2 < group_size < windows else None


def map_window_groups(
    block: Callable[[jax.Array, WindowGroup], jax.Array],
    x: Float[Array, "B W N C"],
    group_size: int,
    segment_ids: Integer[np.ndarray, "W N"] | None,
    bias: Float[Array, "heads N N"],
) -> Float[Array, "B W N C"]:
    """Apply `block` to `[1, group_size, N, C]` at a time, in place.

    `segment_ids` are those of all windows of a clip; `bias` is that of a window.
    """
    batch, windows, *token_shape = x.shape

    def update_group(index: jax.Array, all_windows: jax.Array) -> jax.Array:
        group_ids = None
        if segment_ids is not None:
            rows = (index * group_size + np.arange(group_size)) % windows
            group_ids = jnp.asarray(segment_ids)[rows]
        group = jax.lax.dynamic_index_in_dim(all_windows, index, keepdims=True)
        group = block(group, WindowGroup(group_ids, bias))
        return jax.lax.dynamic_update_slice_in_dim(all_windows, group, index, 0)

    groups = batch * windows // group_size
    x = x.reshape(groups, group_size, *token_shape)
    return jax.lax.fori_loop(0, groups, update_group, x).reshape(batch, windows, *token_shape)
