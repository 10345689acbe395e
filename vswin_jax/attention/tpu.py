"""Window attention by the TPU kernels: the conditions for using them, and their call on a mesh."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vswin_jax.attention.inputs import QkvOrShape, SegmentIdsOrShape
from vswin_jax.kernels import attention_tpu
from vswin_jax.kernels.chip_memory import (
    chip_memory_for,
    unsupported_chip_reason,
    warn_if_interpreted,
)
from vswin_jax.runtime.target_platform import target_platform
from vswin_jax.sharding import shard_map_wrappers


def unsupported_reason(
    qkv: QkvOrShape, segment_ids: SegmentIdsOrShape | None, scale: float, has_dropout: bool
) -> str | None:
    """Return the reason why the kernels cannot compute this attention, or None if they can."""
    if has_dropout:
        return "it does not drop attention weights"
    if qkv.dtype not in (jnp.float32, jnp.bfloat16):
        return f"it takes float32 and bfloat16, not {qkv.dtype}"
    reason = _platform_reason(target_platform())
    if reason is not None:
        return reason
    # Checked for all windows and heads, since no device has more of them.
    config, flat = _kernel_config(qkv, scale), jax.eval_shape(_flatten, qkv)
    tilings = [
        attention_tpu.tiling_for(flat, segment_ids, config, backward) for backward in (False, True)
    ]
    if None in tilings:
        return f"a window of {qkv.shape[2]} tokens does not fit the chip's VMEM"
    return None


def _platform_reason(platform: str) -> str | None:
    if platform != "tpu":
        return None
    return unsupported_chip_reason(platform) or shard_map_wrappers.unsupported_reason()


def attend(
    qkv: Float[Array, "B W N 3 heads dim"],
    bias: Float[Array, "heads N N"],
    segment_ids: Int[Array, "W N"] | None,
    scale: float,
) -> Float[Array, "B W N heads dim"]:
    """Return attention inside each window, computed by the kernels.

    XLA's partitioner cannot split a kernel, so a shard_map calls it on each device.
    """
    warn_if_interpreted("attention", target_platform())
    attend_shard = functools.partial(_attend_shard, scale=scale)
    return shard_map_wrappers.shard_map_attention(attend_shard, qkv, bias, segment_ids)


def _attend_shard(
    qkv: jax.Array, bias: jax.Array, segment_ids: jax.Array | None, scale: float
) -> jax.Array:
    batch, windows, tokens, _, heads, dim = qkv.shape
    out = attention_tpu.attend(_flatten(qkv), bias, segment_ids, _kernel_config(qkv, scale))
    return out.reshape(batch, windows, tokens, heads, dim)


def _flatten(qkv: jax.Array) -> jax.Array:
    """Reshape `[B, W, N, 3, heads, dim]` to `[B * W, N, 3 * heads * dim]`."""
    return qkv.reshape(qkv.shape[0] * qkv.shape[1], qkv.shape[2], -1)


def _kernel_config(
    qkv: jax.Array | jax.ShapeDtypeStruct, scale: float
) -> attention_tpu.AttentionKernelConfig:
    platform = target_platform()
    return attention_tpu.AttentionKernelConfig(
        heads=qkv.shape[-2],
        scale=scale,
        chip=chip_memory_for(platform),
        interpret=platform != "tpu",
    )
