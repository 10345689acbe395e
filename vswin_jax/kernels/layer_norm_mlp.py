"""TPU kernels of the layers after attention: projection, residual, LayerNorm, MLP and residual.

The hidden activations, four times as wide as the tokens, never leave the chip, nor do the tokens
between the two residual branches. The backward kernel recomputes both from the operands, so only
the operands are saved, whatever the remat policy.
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
    gelu,
    gelu_and_derivative,
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


class BranchParams(NamedTuple):
    """Parameters of the projection, of LayerNorm, and of the two layers of the MLP.

    Kernels are `[C, C]`, `[C, H]` and `[H, C]`; bias1 is `[H]`, the other vectors are `[C]`.
    """

    proj_kernel: jax.Array
    proj_bias: jax.Array
    scale: jax.Array
    norm_bias: jax.Array
    kernel1: jax.Array
    bias1: jax.Array
    kernel2: jax.Array
    bias2: jax.Array


_COUNT = len(BranchParams._fields)

# x, attention output, factors of stochastic depth, parameters
_Operands = tuple[jax.Array, jax.Array, jax.Array | None, BranchParams]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def add_branches(
    x: Float[Array, "B T C"],
    attn_out: Float[Array, "B T C"],
    factors: Float[Array, "2 B"] | None,
    weights: BranchParams,
    config: TokenKernelConfig,
) -> Float[Array, "B T C"]:
    """Add both residual branches of a block to the tokens `x`; `attn_out` is attention's output.

    `factors` scale the branches of each clip (stochastic depth), or are None; their gradient is 0.
    """
    return _run_forward((x, attn_out, factors, weights), config)


def _fwd(
    x: jax.Array,
    attn_out: jax.Array,
    factors: jax.Array | None,
    weights: BranchParams,
    config: TokenKernelConfig,
) -> tuple[jax.Array, _Operands]:
    operands = (x, attn_out, factors, weights)
    return _run_forward(operands, config), operands


def _bwd(config: TokenKernelConfig, residuals: _Operands, grad: jax.Array) -> _Operands:
    x, attn_out, factors, weights = residuals
    channels = x.shape[-1]
    grads, weight_grads = token_calls.call_token_kernel(
        _backward_kernel,
        tiling_for(x.shape, x.dtype, len(weights.bias1), config, backward=True),
        config,
        name="add_branches_grad",
        tokens=[x, attn_out, grad],
        factors=factors,
        weights=_cast_kernels(weights, x.dtype),
        results=[channels, channels],
        gradients=True,
        scratch=[(channels, x.dtype), (channels, jnp.float32)],
        macs=3 * weights.proj_kernel.size + 5 * weights.kernel1.size,
    )
    factor_grads = None if factors is None else jnp.zeros_like(factors)
    return *grads, factor_grads, BranchParams(*weight_grads)


add_branches.defvjp(_fwd, _bwd)


def _run_forward(operands: _Operands, config: TokenKernelConfig) -> jax.Array:
    x, attn_out, factors, weights = operands
    (out,), _ = token_calls.call_token_kernel(
        _forward_kernel,
        tiling_for(x.shape, x.dtype, len(weights.bias1), config, backward=False),
        config,
        name="add_branches",
        tokens=[x, attn_out],
        factors=factors,
        weights=_cast_kernels(weights, x.dtype),
        results=[x.shape[-1]],
        gradients=False,
        scratch=[(x.shape[-1], x.dtype), (x.shape[-1], jnp.float32)],
        macs=weights.proj_kernel.size + 2 * weights.kernel1.size,
    )
    return out


def _cast_kernels(weights: BranchParams, dtype: jnp.dtype) -> BranchParams:
    names = ("proj_kernel", "kernel1", "kernel2")
    return weights._replace(**{name: getattr(weights, name).astype(dtype) for name in names})


def tiling_for(
    shape: tuple[int, ...],
    dtype: jnp.dtype,
    hidden: int,
    config: TokenKernelConfig,
    backward: bool,
) -> TokenTiling | None:
    """Return the blocks for tokens of `shape` `[B, T, C]`, or None if none fit the chip."""
    clips, tokens, channels = shape
    tile = round_up(channel_tile(hidden))
    channels, hidden = round_up(channels), round_up(hidden)
    size = dtype.itemsize
    if backward:
        streamed, intermediate = 5 * channels, 6 * channels + 5 * tile
    else:
        streamed, intermediate = 3 * channels, 4 * channels + 3 * tile
    # The gradients of the three matrices are accumulated in float32.
    fixed = (channels * channels + 2 * channels * hidden) * (size + 4 if backward else size)
    usage = VmemUsage(streamed=streamed, intermediate=intermediate, fixed=fixed)
    return choose_token_tiling(TokenSizes(clips, tokens, itemsize=size), usage, config.chip)


def _between_branches(
    context: TokenContext,
    factors: Ref | None,
    x_ref: Ref,
    attn_out: Ref,
    weights: BranchParams,
) -> jax.Array:
    """Return the float32 tokens between the two residual branches."""
    branch = dot(attn_out[...], weights.proj_kernel[...], MATMUL) + weights.proj_bias[...]
    return x_ref[...].astype(jnp.float32) + context.drop_path(factors, 0)(branch)


def _forward_kernel(
    context: TokenContext, factors: Ref | None, x_ref: Ref, attn_out: Ref, *refs: Ref
) -> None:
    weights, (out_ref, normal_ref, total) = BranchParams(*refs[:_COUNT]), refs[_COUNT:]
    between = _between_branches(context, factors, x_ref, attn_out, weights)
    normal, _ = layer_norm(between, weights, context.epsilon)
    normal_ref[...] = normal.astype(normal_ref.dtype)
    total[...] = jnp.broadcast_to(weights.bias2[...], total.shape)

    # Both layers of the MLP are applied tile by tile of the hidden channels, so that only one tile
    # of hidden activations exists at a time.
    def one_tile(channels: Tile) -> None:
        hidden = dot(normal_ref[...], weights.kernel1[:, channels], MATMUL)
        active = gelu(hidden + weights.bias1[:, channels]).astype(normal_ref.dtype)
        total[...] += dot(active, weights.kernel2[channels, :], MATMUL)

    token_calls.for_each_tile(weights.bias1.shape[-1], one_tile)
    out_ref[...] = (between + context.drop_path(factors, 1)(total[...])).astype(out_ref.dtype)


def _backward_kernel(
    context: TokenContext, factors: Ref | None, x_ref: Ref, attn_out: Ref, out_grad: Ref, *refs: Ref
) -> None:
    weights, (x_grad, attn_out_grad, *refs) = BranchParams(*refs[:_COUNT]), refs[_COUNT:]
    grads, (normal_ref, normal_grad) = BranchParams(*refs[:_COUNT]), refs[_COUNT:]
    token_calls.zero_at_first_step(grads)
    dtype = x_ref.dtype
    between = _between_branches(context, factors, x_ref, attn_out, weights)
    normal, residuals = layer_norm(between, weights, context.epsilon)
    normal_ref[...] = normal.astype(dtype)
    branch_grad = context.drop_path(factors, 1)(out_grad[...].astype(jnp.float32))
    grads.bias2[...] += column_sums(branch_grad)
    branch_grad = branch_grad.astype(dtype)
    normal_grad[...] = jnp.zeros_like(normal_grad)
    _mlp_backward(branch_grad, weights, grads, normal_ref, normal_grad)
    grad = layer_norm_grad(normal_grad[...], residuals, weights, grads)
    grad = grad + out_grad[...].astype(jnp.float32)
    x_grad[...] = grad.astype(dtype)
    branch_grad = context.drop_path(factors, 0)(grad)
    _projection_backward(branch_grad, attn_out, weights, grads, attn_out_grad)


def _mlp_backward(
    out_grad: jax.Array, weights: BranchParams, grads: BranchParams, normal: Ref, normal_grad: Ref
) -> None:
    """Add the gradients of both MLP layers to `grads`, and of their input to `normal_grad`.

    The hidden activations are recomputed tile by tile.
    """
    dtype = out_grad.dtype

    def one_tile(channels: Tile) -> None:
        kernel1, kernel2 = weights.kernel1[:, channels], weights.kernel2[channels, :]
        hidden = dot(normal[...], kernel1, MATMUL) + weights.bias1[:, channels]
        active, derivative = gelu_and_derivative(hidden)
        grads.kernel2[channels, :] += dot(active.astype(dtype), out_grad, CONTRACT_ROWS)
        hidden_grad = dot(out_grad, kernel2, CONTRACT_LANES) * derivative
        grads.bias1[:, channels] += column_sums(hidden_grad)
        hidden_grad = hidden_grad.astype(dtype)
        grads.kernel1[:, channels] += dot(normal[...], hidden_grad, CONTRACT_ROWS)
        normal_grad[...] += dot(hidden_grad, kernel1, CONTRACT_LANES)

    token_calls.for_each_tile(weights.bias1.shape[-1], one_tile)


def _projection_backward(
    grad: jax.Array, attn_out: Ref, weights: BranchParams, grads: BranchParams, attn_out_grad: Ref
) -> None:
    """Add the projection's gradients to `grads`, and write that of its input `attn_out`."""
    grads.proj_bias[...] += column_sums(grad)
    grad = grad.astype(attn_out.dtype)
    grads.proj_kernel[...] += dot(attn_out[...], grad, CONTRACT_ROWS)
    input_grad = dot(grad, weights.proj_kernel[...], CONTRACT_LANES)
    attn_out_grad[...] = input_grad.astype(attn_out.dtype)
