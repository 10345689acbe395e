"""A block for some windows at a time, so that what its layers give each other stays in the caches.

Between two exchanges of tokens windows have nothing to do with each other: a block can take a few
of them through all of its layers, and only then the next ones. On a CPU that is faster than layer
after layer, the more so the longer the clip, and takes a third of the memory. A backward pass would
have to store what the layers gave, or to compute it again for each group: it is not for training.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from vswin_jax.attention.bias import RelativePosition
from vswin_jax.attention.chunked import largest_divisor
from vswin_jax.attention.geometry import Attend
from vswin_jax.sharding.constraints import splits

# Of the hidden channels of an MLP, in float32: the largest of what is between two layers. Much less
# and the cores meet too often; much more and a cache that they share does not hold it.
_HIDDEN_BYTES = 8 * 2**20


@dataclass(frozen=True)
class WindowGroup:
    """Some of a block's windows, in the place of its `WindowGeometry`.

    Attributes:
      region_ids: theirs, integers `[windows, N]`, or None.
      ready_bias: of a window, `[heads, N, N]`.
    """

    region_ids: jax.Array | None
    ready_bias: jax.Array

    def attend(self, attend: Attend, qkv: jax.Array, table: jax.Array) -> jax.Array:
        """`attend` on these windows."""
        return attend(qkv, table, self.region_ids)

    def bias(self, table: jax.Array, relative_position: RelativePosition) -> jax.Array:
        """The one that is there: it is the same for all groups."""
        return self.ready_bias

    def map_in_order(
        self, function: Callable[[jax.Array], jax.Array], windows: jax.Array
    ) -> jax.Array:
        """`function` of `[1, windows, ...]`: nothing is drawn here."""
        return function(windows)


def windows_together(x: jax.Array, hidden: int) -> int | None:
    """How many windows of tokens `[B, windows, N, C]` are a group; None where all are one.

    They are the most that fit, the same number each time, and more than half of what would fit.
    `hidden` are the channels between the layers of the MLP.
    """
    if splits("batch", len(x)):
        return None
    windows, most = x.shape[0] * x.shape[1], max(1, _HIDDEN_BYTES // (4 * hidden * x.shape[2]))
    together = largest_divisor(windows, most)
    return together if most // 2 < together < windows else None


def over_groups(
    block: Callable[[jax.Array, WindowGroup], jax.Array],
    x: jax.Array,
    together: int,
    region_ids: np.ndarray | None,
    bias: jax.Array,
) -> jax.Array:
    """What `block` makes of `[B, windows, N, C]`; it gets `[1, together, N, C]` at a time.

    `region_ids` are those of all windows of a clip, `bias` is that of a window. What comes out
    overwrites what went in.
    """
    batch, windows, *token_shape = x.shape

    def one(index: jax.Array, all_windows: jax.Array) -> jax.Array:
        regions = None
        if region_ids is not None:
            places = (index * together + np.arange(together)) % windows
            regions = jnp.asarray(region_ids)[places]
        some = jax.lax.dynamic_index_in_dim(all_windows, index, keepdims=True)
        some = block(some, WindowGroup(regions, bias))
        return jax.lax.dynamic_update_slice_in_dim(all_windows, some, index, 0)

    groups = batch * windows // together
    x = x.reshape(groups, together, *token_shape)
    return jax.lax.fori_loop(0, groups, one, x).reshape(batch, windows, *token_shape)
