"""Attention within windows: one function, several implementations of the same maths.

Every implementation takes the packed projection of all windows, the bias and the region ids, and
agrees with `xla` in values and in every gradient, that of the bias too.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vswin_jax.attention import implementations, xla
from vswin_jax.attention.chunked import ATTENDED, chunked
from vswin_jax.attention.inputs import Given
from vswin_jax.errors import unknown_name

# All windows at once: the reference implementation.
_xla = xla.of_flat_windows(lambda given: xla.attend(given)[0])

IMPLEMENTATIONS: dict[str, Callable[[Given], jax.Array]] = {
    "xla": _xla,
    "chunked": chunked,
    **{name: partial(implementations.fused, name=name) for name in implementations.FUSED},
}


def choose(
    implementation: str, qkv: jax.Array, regions: jax.Array | None, scale: float, drops: bool
) -> str:
    """The name of the implementation for `qkv` here, where `"auto"` asks for one."""
    if implementation == "auto":
        return implementations.suited(qkv, regions, scale, drops)
    if implementation in IMPLEMENTATIONS:
        return implementation
    raise unknown_name("attention implementation", implementation, ["auto", *IMPLEMENTATIONS])


def window_attention(
    qkv: jax.Array,
    bias: jax.Array,
    region_ids: jax.Array | None,
    *,
    scale: float | None = None,
    implementation: str = "auto",
    dropout_key: jax.Array | None = None,
    dropout_rate: float = 0.0,
) -> jax.Array:
    """Multi-head attention inside each window.

    Args:
      qkv: `[B, windows, N, 3, heads, dim]`, float32 or bfloat16.
      bias: `[heads, N, N]` (query, key), float32.
      region_ids: `[windows, N]` integers from 0 to 7; tokens of different ids do not attend to
        each other. None where the windows are not shifted.
      scale: factor on the queries; None is dim ** -0.5.
      implementation: a name of `IMPLEMENTATIONS`, or `"auto"`.
      dropout_key: drops attention weights at `dropout_rate` when given.

    Returns:
      `[B, windows, N, heads, dim]` in the dtype of `qkv`, under the name `ATTENDED`.

    Raises:
      InputError: an unknown implementation, or one that cannot be used here.
    """
    scale = qkv.shape[-1] ** -0.5 if scale is None else scale
    regions = None if region_ids is None else jnp.asarray(region_ids)
    drops = dropout_key is not None
    attend = IMPLEMENTATIONS[choose(implementation, qkv, regions, scale, drops)]
    out = attend(Given(qkv, bias, regions, dropout_key, dropout_rate, scale))
    # `chunked` has given it that name, and keeps it for its own backward pass.
    return out if attend is chunked else checkpoint_name(out, ATTENDED)
