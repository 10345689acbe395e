"""Attention within windows, as functions of arrays without parameters.

Windows and tokens:

* `geometry`: the windows of a block over a grid of tokens (size, shift, segment ids), `partition`
  and `merge`. `head_groups` and `clip_sharding` are variants of it: for a few heads at a time, and
  for clips that several devices share.
* `token_order`: raster order and window order of tokens, and the gather from one to another.
* `bias`: the relative position bias from its table.

Attention itself:

* `window_attention`: the public function and the table of its implementations.
* `inputs`: the arguments that all implementations take.
* `xla`: the reference implementation, in plain JAX operations.
* `chunked`: the same for a few windows and heads at a time, for CPUs.
* `gpu`: cuDNN; `tpu`: the Pallas kernels of the room `kernels`.
* `implementations`: the choice among them by platform.
"""

from vswin_jax.attention.bias import Size, table_rows
from vswin_jax.attention.chunked import ATTENTION_OUT
from vswin_jax.attention.clip_sharding import ClipSharding, SplitGeometry
from vswin_jax.attention.geometry import WindowGeometry
from vswin_jax.attention.head_groups import HeadGroups
from vswin_jax.attention.token_order import TokenOrder, reorder
from vswin_jax.attention.window_attention import IMPLEMENTATIONS, window_attention

__all__ = [
    "ATTENTION_OUT",
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
