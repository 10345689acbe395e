"""Which implementation suits the platform, and the fused ones where they can be used."""

import functools
import logging
from types import ModuleType

import jax

from vswin_jax.attention import gpu, tpu
from vswin_jax.attention.inputs import Given
from vswin_jax.errors import unusable
from vswin_jax.runtime.target_platform import target_platform, targets_one_cpu

log = logging.getLogger(__name__)

# Each has `refusal` and `attend`.
FUSED: dict[str, ModuleType] = {"pallas_tpu": tpu, "gpu": gpu}
_OF_PLATFORM = {"tpu": "pallas_tpu", "gpu": "gpu", "cuda": "gpu"}


def suited(qkv: jax.Array, regions: jax.Array | None, scale: float, drops: bool) -> str:
    """The name of what `"auto"` takes here; where a fused one is refused the log says why, once."""
    name = _OF_PLATFORM.get(target_platform())
    if name is not None:
        reason = FUSED[name].refusal(qkv, regions, scale, drops)
        _log_refusal(name, reason)
        return name if reason is None else "xla"
    return "chunked" if targets_one_cpu() else "xla"


@functools.cache
def _log_refusal(name: str, reason: str | None) -> None:
    if reason is not None:
        log.info("attention '%s' is not used: %s", name, reason)


def fused(given: Given, *, name: str) -> jax.Array:
    """Attention by the fused implementation of that name, as `window_attention` calls them.

    Raises:
      InputError: it cannot be used here.
    """
    qkv, regions, scale = given.qkv, given.regions, given.scale
    reason = FUSED[name].refusal(qkv, regions, scale, drops=given.key is not None)
    if reason is not None:
        raise unusable("attention", name, reason)
    return FUSED[name].attend(qkv, given.bias, regions, scale)
