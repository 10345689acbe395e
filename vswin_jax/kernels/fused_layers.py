"""The choice between token kernels and plain layers, and the calls of the kernels on a mesh."""

import functools
import logging

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vswin_jax.errors import unusable
from vswin_jax.kernels import layer_norm_dense, layer_norm_mlp
from vswin_jax.kernels.chip_memory import (
    chip_memory_for,
    unsupported_chip_reason,
    warn_if_interpreted,
)
from vswin_jax.kernels.layer_norm_dense import NormDenseParams
from vswin_jax.kernels.layer_norm_mlp import BranchParams
from vswin_jax.kernels.token_calls import TokenKernelConfig
from vswin_jax.runtime.target_platform import target_platform
from vswin_jax.sharding import shard_map_wrappers

log = logging.getLogger(__name__)

# "xla" is the plain layers, which the compiler fuses; "chunked" is the same layers, attention
# included, on a few windows at a time outside of training: see `models.window_groups`.
IMPLEMENTATIONS = ("auto", "xla", "chunked", "pallas_tpu")

TokensOrShape = Float[Array | jax.ShapeDtypeStruct, "B *tokens C"]


def should_fuse(implementation: str, x: TokensOrShape, hidden: int, has_dropout: bool) -> bool:
    """Return True if the kernels, rather than the plain layers, are to process the tokens `x`.

    `implementation` is a name of `IMPLEMENTATIONS`, and `hidden` is the width of the MLP.

    Raises:
      InputError: `implementation` names the kernels, and they cannot be used here.
    """
    if implementation in ("xla", "chunked") or (
        implementation == "auto" and target_platform() != "tpu"
    ):
        return False
    reason = _unsupported_reason(x, hidden, has_dropout)
    if reason is None:
        return True
    if implementation == "pallas_tpu":
        raise unusable("tokenwise", implementation, reason)
    _log_unsupported(reason)
    return False


def _unsupported_reason(x: jax.Array, hidden: int, has_dropout: bool) -> str | None:
    if has_dropout:
        return "it has no dropout"
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        return f"it takes float32 and bfloat16, not {x.dtype}"
    reason = unsupported_chip_reason(target_platform())
    reason = reason or shard_map_wrappers.batch_unsupported_reason(len(x))
    if reason is not None:
        return reason
    # Blocks that fit for the whole batch also fit for the clips of one device.
    shape, config = jax.eval_shape(_flatten_tokens, x).shape, _kernel_config(epsilon=0.0)
    kernels = ((layer_norm_mlp, hidden), (layer_norm_dense, 3 * x.shape[-1]))
    for backward in (False, True):
        for module, width in kernels:
            if module.tiling_for(shape, x.dtype, width, config, backward) is None:
                return f"blocks of {x.shape[-1]} channels do not fit the chip's VMEM"
    return None


@functools.cache
def _log_unsupported(reason: str) -> None:
    log.info("tokenwise 'pallas_tpu' is not used: %s", reason)


def norm_dense(
    x: Float[Array, "B *tokens C"], weights: NormDenseParams, epsilon: float
) -> tuple[Float[Array, "B *tokens O"], Float[Array, "B *tokens C"]]:
    """Apply LayerNorm and a dense layer by a kernel; also return `x` for the residual branch.

    See `layer_norm_dense.norm_dense` for why the residual branch must use the second result.
    """
    warn_if_interpreted("tokenwise", target_platform())

    def on_one_device(x: jax.Array, weights: NormDenseParams) -> tuple[jax.Array, jax.Array]:
        return layer_norm_dense.norm_dense(x, weights, _kernel_config(epsilon))

    out, same = shard_map_wrappers.shard_map_batch(on_one_device, _flatten_tokens(x), weights)
    return out.reshape(*x.shape[:-1], -1), same.reshape(x.shape)


def add_branches(
    x: Float[Array, "B *tokens C"],
    attn_out: Float[Array, "B *tokens C"],
    factors: Float[Array, "2 B"] | None,
    weights: BranchParams,
    epsilon: float,
) -> Float[Array, "B *tokens C"]:
    """Add both residual branches of a block by a kernel: see `layer_norm_mlp.add_branches`.

    `factors` scale both branches of each clip (stochastic depth), or are None.
    """
    warn_if_interpreted("tokenwise", target_platform())

    def on_one_device(
        batch: tuple[jax.Array, jax.Array, jax.Array | None], weights: BranchParams
    ) -> jax.Array:
        x, attn_out, factors = batch
        factors = None if factors is None else factors.T
        return layer_norm_mlp.add_branches(x, attn_out, factors, weights, _kernel_config(epsilon))

    # Factors are transposed, because the first axis of every array in a batch must be the batch's.
    by_clip = (_flatten_tokens(x), _flatten_tokens(attn_out))
    batch = (*by_clip, None if factors is None else factors.T)
    return shard_map_wrappers.shard_map_batch(on_one_device, batch, weights).reshape(x.shape)


def _flatten_tokens(x: jax.Array) -> jax.Array:
    """Reshape `[B, ..., C]` to `[B, T, C]`."""
    return x.reshape(len(x), -1, x.shape[-1])


def _kernel_config(epsilon: float) -> TokenKernelConfig:
    platform = target_platform()
    return TokenKernelConfig(epsilon, chip_memory_for(platform), interpret=platform != "tpu")
