"""What every implementation of attention in windows is given."""

from dataclasses import dataclass, field

import jax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Given:
    """The inputs of attention in windows, a tree of arrays with settings that are known beforehand.

    Attributes:
      qkv: the packed projection, `[B, windows, N, 3, heads, dim]`; in `plain` of flat windows,
        `[G, N, 3, heads, dim]`.
      bias: `[heads, N, N]` (query, key), float32.
      regions: integers `[windows, N]`, in `plain` `[G, N]`, or None; tokens of different ones do
        not attend to each other.
      key: drops attention weights at `drop_rate`, or None.
      scale: factor on the queries.
    """

    qkv: jax.Array
    bias: jax.Array
    regions: jax.Array | None
    key: jax.Array | None
    drop_rate: float = field(metadata={"static": True})
    scale: float = field(metadata={"static": True})
