"""When the TPU kernels can be used, and how they are called."""

import functools

import jax
import jax.numpy as jnp

from vswin_jax.kernels import attention_tpu
from vswin_jax.kernels.chip_memory import chip_for, warn_of_interpreter
from vswin_jax.runtime.target_platform import target_platform
from vswin_jax.sharding import per_device


def refusal(qkv: jax.Array, regions: jax.Array | None, scale: float, drops: bool) -> str | None:
    """Why the kernels cannot attend in windows `[B, W, N, 3, heads, dim]`; None where they can."""
    if drops:
        return "it does not drop attention weights"
    if qkv.dtype not in (jnp.float32, jnp.bfloat16):
        return f"it takes float32 and bfloat16, not {qkv.dtype}"
    reason = per_device.refusal() if target_platform() == "tpu" else None
    if reason is not None:
        return reason
    # No device has more windows or heads than all of them together.
    settings, flat = _settings(qkv, scale), jax.eval_shape(_flat, qkv)
    plans = [
        attention_tpu.plan_for(flat, regions, settings, backward) for backward in (False, True)
    ]
    if None in plans:
        return f"a window of {qkv.shape[2]} tokens does not fit the chip's vector memory"
    return None


def attend(qkv: jax.Array, bias: jax.Array, regions: jax.Array | None, scale: float) -> jax.Array:
    """Attention in windows `[B, W, N, 3, heads, dim]`, by the kernels, to `[B, W, N, heads, dim]`.

    A kernel is not the compiler's to divide: see `spreading.on_each_device`.
    """
    warn_of_interpreter("attention", target_platform())
    one = functools.partial(_on_one_device, scale=scale)
    return per_device.on_each_device(one, qkv, bias, regions)


def _on_one_device(
    qkv: jax.Array, bias: jax.Array, regions: jax.Array | None, scale: float
) -> jax.Array:
    batch, windows, tokens, _, heads, dim = qkv.shape
    out = attention_tpu.attend(_flat(qkv), bias, regions, _settings(qkv, scale))
    return out.reshape(batch, windows, tokens, heads, dim)


def _flat(qkv: jax.Array) -> jax.Array:
    return qkv.reshape(qkv.shape[0] * qkv.shape[1], qkv.shape[2], -1)


def _settings(qkv: jax.Array, scale: float) -> attention_tpu.Settings:
    chip, interpret = chip_for(target_platform()), target_platform() != "tpu"
    return attention_tpu.Settings(qkv.shape[-2], scale, chip, interpret)
