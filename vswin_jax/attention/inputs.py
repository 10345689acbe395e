"""The arguments that every implementation of window attention takes."""

from dataclasses import dataclass, field
from typing import Any

import jax
from jaxtyping import Array, Float, Int

# Arguments that may also be shapes alone, where only their shapes and dtypes are read.
QkvOrShape = Float[Array | jax.ShapeDtypeStruct, "B W N 3 heads dim"]
SegmentIdsOrShape = Int[Array | jax.ShapeDtypeStruct, "W N"]

# An array; JAX also builds pytrees whose leaves are placeholders.
Leaf = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionInputs:
    """Arguments of window attention: a pytree of arrays with static fields.

    Attributes:
      qkv: the packed projection, `[B, windows, N, 3, heads, dim]`, or `[G, N, 3, heads, dim]` where
        the windows of all clips are one axis.
      bias: `[heads, N, N]` (query, key), float32.
      segment_ids: integers `[windows, N]`, or `[G, N]`, or None; tokens of different segments do
        not attend to each other.
      dropout_key: key to drop attention weights at `dropout_rate`, or None.
      dropout_rate: a static field.
      scale: factor on the queries, a static field.
    """

    qkv: Leaf
    bias: Leaf
    segment_ids: Leaf | None
    dropout_key: Leaf | None
    dropout_rate: float = field(metadata={"static": True})
    scale: float = field(metadata={"static": True})
