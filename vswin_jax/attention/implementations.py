"""The choice of an attention implementation for a platform, and the table of the fused ones."""

import functools
import logging
from types import ModuleType

from jaxtyping import Array, Float

from vswin_jax.attention import gpu, tpu
from vswin_jax.attention.inputs import AttentionInputs, QkvOrShape, SegmentIdsOrShape
from vswin_jax.errors import unusable
from vswin_jax.runtime.target_platform import target_platform, targets_one_cpu

log = logging.getLogger(__name__)

# Modules with the functions `unsupported_reason` and `attend`.
FUSED: dict[str, ModuleType] = {"pallas_tpu": tpu, "gpu": gpu}
_FUSED_OF_PLATFORM = {"tpu": "pallas_tpu", "gpu": "gpu", "cuda": "gpu"}


def choose_for_platform(
    qkv: QkvOrShape, segment_ids: SegmentIdsOrShape | None, scale: float, has_dropout: bool
) -> str:
    """Return the implementation that `"auto"` stands for on the target platform.

    If the platform's fused implementation cannot be used, the reason is logged once.
    """
    name = _FUSED_OF_PLATFORM.get(target_platform())
    if name is not None:
        reason = FUSED[name].unsupported_reason(qkv, segment_ids, scale, has_dropout)
        _log_unsupported(name, reason)
        return name if reason is None else "xla"
    return "chunked" if targets_one_cpu() else "xla"


@functools.cache
def _log_unsupported(name: str, reason: str | None) -> None:
    if reason is not None:
        log.info("attention '%s' is not used: %s", name, reason)


def fused(inputs: AttentionInputs, *, name: str) -> Float[Array, "B W N heads dim"]:
    """Return attention by the fused implementation of that name.

    Raises:
      InputError: the implementation cannot be used here.
    """
    qkv, segment_ids, scale = inputs.qkv, inputs.segment_ids, inputs.scale
    has_dropout = inputs.dropout_key is not None
    reason = FUSED[name].unsupported_reason(qkv, segment_ids, scale, has_dropout)
    if reason is not None:
        raise unusable("attention", name, reason)
    return FUSED[name].attend(qkv, inputs.bias, segment_ids, scale)
