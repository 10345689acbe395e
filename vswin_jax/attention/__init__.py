"""Window attention: where windows lie, their bias, and the attention inside them."""

from vswin_jax.attention.bias import Size, table_rows
from vswin_jax.attention.chunked import ATTENDED
from vswin_jax.attention.clip_sharding import ClipSharding, SplitGeometry
from vswin_jax.attention.geometry import WindowGeometry
from vswin_jax.attention.head_groups import HeadGroups
from vswin_jax.attention.token_order import TokenOrder, reorder
from vswin_jax.attention.window_attention import IMPLEMENTATIONS, window_attention

__all__ = [
    "ATTENDED",
    "IMPLEMENTATIONS",
    "ClipSharding",
    "HeadGroups",
    "Size",
    "SplitGeometry",
    "TokenOrder",
    "WindowGeometry",
    "reorder",
    "table_rows",
    "window_attention",
]
