"""Attention for some heads at a time, so that the biases of all are never there at once."""

from dataclasses import dataclass

import jax

from vswin_jax.attention.chunked import CHUNK_HEADS, largest_divisor
from vswin_jax.attention.geometry import Attend, WindowGeometry
from vswin_jax.sharding.constraints import splits


@dataclass(frozen=True)
class HeadGroups(WindowGeometry):
    """Windows that attend with so many heads at a time as one chunk of `chunked` has.

    The bias of 24 heads is as large as the tokens of a short clip's first stage, and a chunk takes
    a copy of its part. For a loop over windows as well, the bias would be built for each of them.
    """

    @classmethod
    def of(cls, whole: WindowGeometry) -> "HeadGroups":
        """The same windows."""
        return cls(whole.grid, whole.full_window, whole.window, whole.shift)

    def attend(self, attend: Attend, qkv: jax.Array, table: jax.Array) -> jax.Array:
        """`attend` on all windows, with their region ids, heads group by group."""
        heads = qkv.shape[4]
        some = largest_divisor(heads, CHUNK_HEADS)
        if some == heads or splits("heads", heads):
            return super().attend(attend, qkv, table)

        def one(index: jax.Array, out: jax.Array) -> jax.Array:
            start = index * some
            of_group = jax.lax.dynamic_slice_in_dim(qkv, start, some, 4)
            rows = jax.lax.dynamic_slice_in_dim(table, start, some, 1)
            attended = attend(of_group, rows, self.region_ids)
            return jax.lax.dynamic_update_slice_in_dim(out, attended, start, 3)

        # Whatever is there: the loop overwrites it.
        return jax.lax.fori_loop(0, heads // some, one, qkv[:, :, :, 0])
