"""Attention of a few heads at a time, so that the biases of all heads never exist at once."""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Float

from vswin_jax.attention.chunked import CHUNK_HEADS, largest_divisor
from vswin_jax.attention.geometry import Attend, WindowGeometry
from vswin_jax.sharding.constraints import is_sharded


@dataclass(frozen=True)
class HeadGroups(WindowGeometry):
    """A window geometry whose windows attend with a few heads at a time, as many as a chunk has.

    The bias of 24 heads is as large as the tokens of a short clip's first stage, and each chunk of
    `chunked` copies its part. Groups of windows as well would build the bias again for each group.
    """

    @classmethod
    def from_geometry(cls, whole: WindowGeometry) -> "HeadGroups":
        """Build the same windows with attention by groups of heads."""
        return cls(
            grid=whole.grid, full_window=whole.full_window, window=whole.window, shift=whole.shift
        )

    def attend(
        self,
        attend: Attend,
        qkv: Float[Array, "B windows N 3 heads dim"],
        table: Float[Array, "rows heads"],
    ) -> Float[Array, "B windows N heads dim"]:
        """Call `attend` for one group of heads after the other, with the segment ids."""
        heads = qkv.shape[4]
        group = largest_divisor(heads, CHUNK_HEADS)
        if group == heads or is_sharded("heads", heads):
            return super().attend(attend, qkv, table)

        def body(index: jax.Array, out: jax.Array) -> jax.Array:
            start = index * group
            group_qkv = jax.lax.dynamic_slice_in_dim(qkv, start, group, 4)
            group_table = jax.lax.dynamic_slice_in_dim(table, start, group, 1)
            group_out = attend(group_qkv, group_table, self.segment_ids)
            return jax.lax.dynamic_update_slice_in_dim(out, group_out, start, 3)

        # Any data of the right shape will do, as the loop overwrites all of it.
        return jax.lax.fori_loop(0, heads // group, body, qkv[:, :, :, 0])
