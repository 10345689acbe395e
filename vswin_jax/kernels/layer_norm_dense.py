"""TPU kernels of the layers before attention: LayerNorm and the dense layer for qkv.

The normalized tokens are never written to HBM, forward or backward. The backward kernel also adds
the gradient of the residual branch, which would otherwise be one more pass over the tokens.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vswin_jax.kernels import token_calls
from vswin_jax.kernels.chip_memory import round_up
from vswin_jax.kernels.token_arithmetic import (
    CONTRACT_LANES,
    CONTRACT_ROWS,
    MATMUL,
    column_sums,
    dot,
    layer_norm,
    layer_norm_grad,
)
from vswin_jax.kernels.token_calls import Ref, Tile, TokenContext, TokenKernelConfig
from vswin_jax.kernels.token_tiling import (
    TokenSizes,
    TokenTiling,
    VmemUsage,
    channel_tile,
    choose_token_tiling,
)


class NormDenseParams(NamedTuple):
    """Parameters: LayerNorm scale and bias `[C]`, dense kernel `[C, O]` and bias `[O]`."""

    scale: jax.Array
    norm_bias: jax.Array
    kernel: jax.Array
    bias: jax.Array


_COUNT = len(NormDenseParams._fields)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def norm_dense(
    x: Float[Array, "B T C"], weights: NormDenseParams, config: TokenKernelConfig
) -> tuple[Float[Array, "B T O"], Float[Array, "B T C"]]:
    """Return the normalized tokens times the dense kernel, and the tokens unchanged.

    The residual branch must use the second result: its gradient then enters the backward kernel.
    """
    return _run_forward(x, weights, config), x


def _fwd(
    x: jax.Array, weights: NormDenseParams, config: TokenKernelConfig
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, NormDenseParams]]:
    return (_run_forward(x, weights, config), x), (x, weights)


def _bwd(
    config: TokenKernelConfig,
    residuals: tuple[jax.Array, NormDenseParams],
    grads: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, NormDenseParams]:
    x, weights = residuals
    (x_grad,), weight_grads = token_calls.call_token_kernel(
        _backward_kernel,
        tiling_for(x.shape, x.dtype, weights.kernel.shape[1], config, backward=True),
        config,
        name="norm_dense_grad",
        tokens=[x, *grads],
        factors=None,
        weights=_cast_kernel(weights, x.dtype),
        results=[x.shape[-1]],
        gradients=True,
        scratch=[(x.shape[-1], x.dtype), (x.shape[-1], jnp.float32)],
        macs=2 * weights.kernel.size,
    )
    return x_grad, NormDenseParams(*weight_grads)


norm_dense.defvjp(_fwd, _bwd)


def _run_forward(x: jax.Array, weights: NormDenseParams, config: TokenKernelConfig) -> jax.Array:
    outputs = weights.kernel.shape[1]
    (out,), _ = token_calls.call_token_kernel(
        _forward_kernel,
        tiling_for(x.shape, x.dtype, outputs, config, backward=False),
        config,
        name="norm_dense",
        tokens=[x],
        factors=None,
        weights=_cast_kernel(weights, x.dtype),
        results=[outputs],
        gradients=False,
        scratch=[(x.shape[-1], x.dtype)],
        macs=weights.kernel.size,
    )
    return out


def _cast_kernel(weights: NormDenseParams, dtype: jnp.dtype) -> NormDenseParams:
    return weights._replace(kernel=weights.kernel.astype(dtype))


def tiling_for(
    shape: tuple[int, ...],
    dtype: jnp.dtype,
    outputs: int,
    config: TokenKernelConfig,
    backward: bool,
) -> TokenTiling | None:
    """Return the blocks for tokens of `shape` `[B, T, C]`, or None if none fit the chip."""
    clips, tokens, channels = shape
    tile = round_up(channel_tile(outputs))
    channels, outputs = round_up(channels), round_up(outputs)
    size = dtype.itemsize
    if backward:
        streamed, intermediate = 3 * channels + outputs, 5 * channels + 2 * tile
    else:
        streamed, intermediate = channels + outputs, 3 * channels + 2 * tile
    # The gradient of the dense kernel is accumulated in float32.
    fixed = channels * outputs * (size + 4 if backward else size)
    usage = VmemUsage(streamed=streamed, intermediate=intermediate, fixed=fixed)
    return choose_token_tiling(TokenSizes(clips, tokens, itemsize=size), usage, config.chip)


def _forward_kernel(context: TokenContext, factors: None, x_ref: Ref, *refs: Ref) -> None:
    *weights, out_ref, normal_ref = refs
    weights = NormDenseParams(*weights)
    normal, _ = layer_norm(x_ref[...].astype(jnp.float32), weights, context.epsilon)
    # Kept in scratch in the compute dtype, because every tile of the loop reads all of it.
    normal_ref[...] = normal.astype(normal_ref.dtype)

    def one_tile(outputs: Tile) -> None:
        out = dot(normal_ref[...], weights.kernel[:, outputs], MATMUL) + weights.bias[:, outputs]
        out_ref[:, outputs] = out.astype(out_ref.dtype)

    token_calls.for_each_tile(out_ref.shape[-1], one_tile)


def _backward_kernel(
    context: TokenContext, factors: None, x_ref: Ref, out_grad: Ref, residual_grad: Ref, *refs: Ref
) -> None:
    weights, (x_grad_ref, *refs) = NormDenseParams(*refs[:_COUNT]), refs[_COUNT:]
    grads, (normal_ref, normal_grad) = NormDenseParams(*refs[:_COUNT]), refs[_COUNT:]
    token_calls.zero_at_first_step(grads)
    normal, residuals = layer_norm(x_ref[...].astype(jnp.float32), weights, context.epsilon)
    normal_ref[...] = normal.astype(normal_ref.dtype)
    normal_grad[...] = jnp.zeros_like(normal_grad)

    # Everything that needs a tile of `out_grad` happens in one pass over the tiles.
    def one_tile(outputs: Tile) -> None:
        grad = out_grad[:, outputs]
        grads.bias[:, outputs] += column_sums(grad.astype(jnp.float32))
        grads.kernel[:, outputs] += dot(normal_ref[...], grad, CONTRACT_ROWS)
        normal_grad[...] += dot(grad, weights.kernel[:, outputs], CONTRACT_LANES)

    token_calls.for_each_tile(out_grad.shape[-1], one_tile)
    x_grad = layer_norm_grad(normal_grad[...], residuals, weights, grads)
    x_grad_ref[...] = (x_grad + residual_grad[...].astype(jnp.float32)).astype(x_grad_ref.dtype)
