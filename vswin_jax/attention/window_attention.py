"""Attention within windows: one function with several implementations.

Every implementation takes the packed projection of all windows, the bias and the segment ids, and
agrees with `xla` in its values and in every gradient, the bias's included.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from vswin_jax.attention import implementations, xla
from vswin_jax.attention.chunked import ATTENTION_OUT, chunked
from vswin_jax.attention.inputs import AttentionInputs, QkvOrShape, SegmentIdsOrShape
from vswin_jax.errors import unknown_name

# All windows at once: the reference implementation.
_xla = xla.flatten_clips(lambda inputs: xla.attend(inputs)[0])

IMPLEMENTATIONS: dict[str, Callable[[AttentionInputs], jax.Array]] = {
    "xla": _xla,
    "chunked": chunked,
    **{name: partial(implementations.fused, name=name) for name in implementations.FUSED},
}


def resolve_implementation(
    implementation: str,
    qkv: QkvOrShape,
    segment_ids: SegmentIdsOrShape | None,
    scale: float,
    has_dropout: bool,
) -> str:
    """Return a name of `IMPLEMENTATIONS`; `"auto"` is resolved for the target platform."""
    if implementation == "auto":
        return implementations.choose_for_platform(qkv, segment_ids, scale, has_dropout)
    if implementation in IMPLEMENTATIONS:
        return implementation
    raise unknown_name("attention implementation", implementation, ["auto", *IMPLEMENTATIONS])


def window_attention(
    qkv: Float[Array, "B windows N 3 heads dim"],
    bias: Float[Array, "heads N N"],
    segment_ids: Int[Array | np.ndarray, "windows N"] | None,
    *,
    scale: float | None = None,
    implementation: str = "auto",
    dropout_key: jax.Array | None = None,
    dropout_rate: float = 0.0,
) -> Float[Array, "B windows N heads dim"]:
    """Compute multi-head attention inside each window.

    Args:
      qkv: the packed projection, float32 or bfloat16.
      bias: of each (query, key), float32.
      segment_ids: from 0 to 7; tokens of different segments do not attend to each other. None if
        the windows are not shifted.
      scale: factor on the queries; None is dim ** -0.5.
      implementation: a name of `IMPLEMENTATIONS`, or `"auto"`.
      dropout_key: drops attention weights if given.
      dropout_rate: share of the weights that are dropped.

    Returns:
      The output in the dtype of `qkv`, named `ATTENTION_OUT` for remat policies.

    Raises:
      InputError: an unknown implementation, or one that cannot be used here.
    """
    scale = qkv.shape[-1] ** -0.5 if scale is None else scale
    ids = None if segment_ids is None else jnp.asarray(segment_ids)
    name = resolve_implementation(implementation, qkv, ids, scale, dropout_key is not None)
    attend = IMPLEMENTATIONS[name]
    out = attend(AttentionInputs(qkv, bias, ids, dropout_key, dropout_rate, scale=scale))
    # `chunked` has named its output already, to keep it for its own backward pass.
    return out if attend is chunked else checkpoint_name(out, ATTENTION_OUT)
