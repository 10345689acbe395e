"""What comes after attention as TPU kernels: projection, residual, and the whole MLP branch.

The hidden activations, four times as wide as the tokens, never leave the chip, nor do the tokens
between the two branches. The backward kernel computes both again from the operands, so nothing but
those is saved, whatever the remat policy.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vswin_jax.kernels import token_calls
from vswin_jax.kernels.chip_memory import padded
from vswin_jax.kernels.token_arithmetic import (
    OVER_LANES,
    OVER_ROWS,
    PLAIN,
    column_sums,
    dot,
    gelu,
    gelu_and_slope,
    normalized,
    normalized_grad,
)
from vswin_jax.kernels.token_calls import Body, Ref, Settings
from vswin_jax.kernels.token_tiling import Needs, Plan, Tokens, make_plan, tile_of


class Branches(NamedTuple):
    """Parameters: of the projection, of LayerNorm, and of the two layers of the MLP.

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


_COUNT = len(Branches._fields)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def add_branches(
    x: jax.Array,
    attended: jax.Array,
    factors: jax.Array | None,
    weights: Branches,
    settings: Settings,
) -> jax.Array:
    """Tokens `[B, T, C]` with both branches of a block, `attended` being what attention made.

    `factors` scale the branches of each clip, float32 `[2, B]`, or None; they get no gradient.
    """
    return _forward(x, attended, factors, weights, settings)


def _save(
    x: jax.Array,
    attended: jax.Array,
    factors: jax.Array | None,
    weights: Branches,
    settings: Settings,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array | None, Branches]]:
    saved = (x, attended, factors, weights)
    return _forward(*saved, settings), saved


def _restore(
    settings: Settings,
    saved: tuple[jax.Array, jax.Array, jax.Array | None, Branches],
    grad: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array | None, Branches]:
    x, attended, factors, weights = saved
    channels = x.shape[-1]
    grads, weight_grads = token_calls.over_tokens(
        _backward_body,
        plan_for(x.shape, x.dtype, len(weights.bias1), settings, backward=True),
        settings,
        name="add_branches_grad",
        tokens=[x, attended, grad],
        factors=factors,
        weights=_in_dtype(weights, x.dtype),
        results=[channels, channels],
        gradients=True,
        scratch=[(channels, x.dtype), (channels, jnp.float32)],
        macs=3 * weights.proj_kernel.size + 5 * weights.kernel1.size,
    )
    no_grad = None if factors is None else jnp.zeros_like(factors)
    return *grads, no_grad, Branches(*weight_grads)


add_branches.defvjp(_save, _restore)


def _forward(
    x: jax.Array,
    attended: jax.Array,
    factors: jax.Array | None,
    weights: Branches,
    settings: Settings,
) -> jax.Array:
    (out,), _ = token_calls.over_tokens(
        _forward_body,
        plan_for(x.shape, x.dtype, len(weights.bias1), settings, backward=False),
        settings,
        name="add_branches",
        tokens=[x, attended],
        factors=factors,
        weights=_in_dtype(weights, x.dtype),
        results=[x.shape[-1]],
        gradients=False,
        scratch=[(x.shape[-1], x.dtype), (x.shape[-1], jnp.float32)],
        macs=weights.proj_kernel.size + 2 * weights.kernel1.size,
    )
    return out


def _in_dtype(weights: Branches, dtype: jnp.dtype) -> Branches:
    names = ("proj_kernel", "kernel1", "kernel2")
    return weights._replace(**{name: getattr(weights, name).astype(dtype) for name in names})


def plan_for(
    shape: tuple[int, ...], dtype: jnp.dtype, hidden: int, settings: Settings, backward: bool
) -> Plan | None:
    """The blocks for tokens of `shape`, `[B, T, C]`; None where nothing fits the chip."""
    clips, tokens, channels = shape
    channels, tile, hidden = padded(channels), padded(tile_of(hidden)), padded(hidden)
    size = dtype.itemsize
    if backward:
        streamed, between = 5 * channels, 6 * channels + 5 * tile
    else:
        streamed, between = 3 * channels, 4 * channels + 3 * tile
    fixed = (channels * channels + 2 * channels * hidden) * (size + 4 if backward else size)
    return make_plan(Tokens(clips, tokens, size), Needs(streamed, between, fixed), settings.chip)


def _between(
    body: Body, factors: Ref | None, x_ref: Ref, attended: Ref, weights: Branches
) -> jax.Array:
    """The tokens between the two branches, float32."""
    branch = dot(attended[...], weights.proj_kernel[...], PLAIN) + weights.proj_bias[...]
    return x_ref[...].astype(jnp.float32) + body.scale(factors, 0)(branch)


def _forward_body(body: Body, factors: Ref | None, x_ref: Ref, attended: Ref, *refs: Ref) -> None:
    weights, (out_ref, normal_ref, total) = Branches(*refs[:_COUNT]), refs[_COUNT:]
    between = _between(body, factors, x_ref, attended, weights)
    normal, _ = normalized(between, weights, body.epsilon)
    normal_ref[...] = normal.astype(normal_ref.dtype)
    total[...] = jnp.broadcast_to(weights.bias2[...], total.shape)

    def one_tile(channels: slice) -> None:
        hidden = dot(normal_ref[...], weights.kernel1[:, channels], PLAIN)
        active = gelu(hidden + weights.bias1[:, channels]).astype(normal_ref.dtype)
        total[...] += dot(active, weights.kernel2[channels, :], PLAIN)

    token_calls.for_each_tile(weights.bias1.shape[-1], one_tile)
    out_ref[...] = (between + body.scale(factors, 1)(total[...])).astype(out_ref.dtype)


def _backward_body(
    body: Body, factors: Ref | None, x_ref: Ref, attended: Ref, out_grad: Ref, *refs: Ref
) -> None:
    weights, (x_grad, attended_grad, *refs) = Branches(*refs[:_COUNT]), refs[_COUNT:]
    grads, (normal_ref, normal_grad) = Branches(*refs[:_COUNT]), refs[_COUNT:]
    token_calls.clear_at_first(grads)
    dtype = x_ref.dtype
    between = _between(body, factors, x_ref, attended, weights)
    normal, saved = normalized(between, weights, body.epsilon)
    normal_ref[...] = normal.astype(dtype)
    branch_grad = body.scale(factors, 1)(out_grad[...].astype(jnp.float32))
    grads.bias2[...] += column_sums(branch_grad)
    branch_grad = branch_grad.astype(dtype)
    normal_grad[...] = jnp.zeros_like(normal_grad)

    def one_tile(channels: slice) -> None:
        kernel1, kernel2 = weights.kernel1[:, channels], weights.kernel2[channels, :]
        hidden = dot(normal_ref[...], kernel1, PLAIN) + weights.bias1[:, channels]
        active, slope = gelu_and_slope(hidden)
        grads.kernel2[channels, :] += dot(active.astype(dtype), branch_grad, OVER_ROWS)
        hidden_grad = dot(branch_grad, kernel2, OVER_LANES) * slope
        grads.bias1[:, channels] += column_sums(hidden_grad)
        hidden_grad = hidden_grad.astype(dtype)
        grads.kernel1[:, channels] += dot(normal_ref[...], hidden_grad, OVER_ROWS)
        normal_grad[...] += dot(hidden_grad, kernel1, OVER_LANES)

    token_calls.for_each_tile(weights.bias1.shape[-1], one_tile)
    grad = normalized_grad(normal_grad[...], saved, weights, grads)
    grad = grad + out_grad[...].astype(jnp.float32)
    x_grad[...] = grad.astype(dtype)
    _through_projection(body.scale(factors, 0)(grad), attended, weights, grads, attended_grad)


def _through_projection(
    grad: jax.Array, attended: Ref, weights: Branches, grads: Branches, attended_grad: Ref
) -> None:
    """Takes the gradient of the projected branch, float32, to its parameters and to `attended`."""
    grads.proj_bias[...] += column_sums(grad)
    grad = grad.astype(attended.dtype)
    grads.proj_kernel[...] += dot(attended[...], grad, OVER_ROWS)
    attended_grad[...] = dot(grad, weights.proj_kernel[...], OVER_LANES).astype(attended.dtype)
