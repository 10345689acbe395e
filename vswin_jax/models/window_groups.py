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
from vswin_jax.attention.geometry import Attend
from vswin_jax.layout import splits
from vswin_jax.spreading import target

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


def in_groups(implementation: str, x: jax.Array, hidden: int) -> bool:
    """Whether tokens `[B, windows, N, C]` are more than one group, and are taken so.

    `implementation` is a name of `tokenwise.IMPLEMENTATIONS`; `hidden` are the channels between the
    layers of the MLP.
    """
    # Over several devices a loop over windows would gather all of them on each.
    alone = target() == "cpu" and jax.device_count() == 1
    if implementation != "chunked" and not (implementation == "auto" and alone):
        return False
    return not splits("batch", len(x)) and _together(x, hidden) < len(x) * x.shape[1]


def _together(x: jax.Array, hidden: int) -> int:
    """How many windows are a group: the most that fit, and the same number each time.

    All of them, where no such number is more than half of what would fit.
    """
    windows = x.shape[0] * x.shape[1]
    most = max(1, _HIDDEN_BYTES // (4 * hidden * x.shape[2]))
    fitting = range(min(most, windows), most // 2, -1)
    return next((n for n in fitting if windows % n == 0), windows)


def over_groups(
    block: Callable[[jax.Array, WindowGroup], jax.Array],
    x: jax.Array,
    hidden: int,
    region_ids: np.ndarray | None,
    bias: jax.Array,
) -> jax.Array:
    """What `block` makes of `[B, windows, N, C]`, group by group; it gets `[1, some, N, C]` each.

    `hidden` are the channels between the layers of the MLP; `region_ids` those of all windows of a
    clip; `bias` is that of a window. What comes out overwrites what went in.
    """
    batch, windows, *token_shape = x.shape
    together = _together(x, hidden)

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
