"""What comes before attention as TPU kernels: LayerNorm and the product for queries, keys, values.

The normalised tokens are never written, and the residual's gradient is added where that of the
branch is made.
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
    normalized,
    normalized_grad,
)
from vswin_jax.kernels.token_calls import Body, Ref, Settings
from vswin_jax.kernels.token_tiling import Needs, Plan, Tokens, make_plan, tile_of


class NormDense(NamedTuple):
    """Parameters: scale and bias of LayerNorm `[C]`; kernel `[C, O]` and bias `[O]`."""

    scale: jax.Array
    norm_bias: jax.Array
    kernel: jax.Array
    bias: jax.Array


_COUNT = len(NormDense._fields)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def norm_dense(x: jax.Array, weights: NormDense, settings: Settings) -> tuple[jax.Array, jax.Array]:
    """Tokens `[B, T, C]` normalised and multiplied, `[B, T, O]`, and the tokens as they were.

    The residual branch takes the latter, so that its gradient comes through the same kernel.
    """
    return _forward(x, weights, settings), x


def _save(
    x: jax.Array, weights: NormDense, settings: Settings
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, NormDense]]:
    return (_forward(x, weights, settings), x), (x, weights)


def _restore(
    settings: Settings,
    saved: tuple[jax.Array, NormDense],
    grads: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, NormDense]:
    x, weights = saved
    outputs = weights.kernel.shape[1]
    (x_grad,), weight_grads = token_calls.over_tokens(
        _backward_body,
        plan_for(x.shape, x.dtype, outputs, settings, backward=True),
        settings,
        name="norm_dense_grad",
        tokens=[x, *grads],
        factors=None,
        weights=_in_dtype(weights, x.dtype),
        results=[x.shape[-1]],
        gradients=True,
        scratch=[(x.shape[-1], x.dtype), (x.shape[-1], jnp.float32)],
        macs=2 * weights.kernel.size,
    )
    return x_grad, NormDense(*weight_grads)


norm_dense.defvjp(_save, _restore)


def _forward(x: jax.Array, weights: NormDense, settings: Settings) -> jax.Array:
    outputs = weights.kernel.shape[1]
    (out,), _ = token_calls.over_tokens(
        _forward_body,
        plan_for(x.shape, x.dtype, outputs, settings, backward=False),
        settings,
        name="norm_dense",
        tokens=[x],
        factors=None,
        weights=_in_dtype(weights, x.dtype),
        results=[outputs],
        gradients=False,
        scratch=[(x.shape[-1], x.dtype)],
        macs=weights.kernel.size,
    )
    return out


def _in_dtype(weights: NormDense, dtype: jnp.dtype) -> NormDense:
    return weights._replace(kernel=weights.kernel.astype(dtype))


def plan_for(
    shape: tuple[int, ...], dtype: jnp.dtype, outputs: int, settings: Settings, backward: bool
) -> Plan | None:
    """The blocks for tokens of `shape`, `[B, T, C]`; None where nothing fits the chip."""
    clips, tokens, channels = shape
    channels, tile, outputs = padded(channels), padded(tile_of(outputs)), padded(outputs)
    size = dtype.itemsize
    if backward:
        streamed, between = 3 * channels + outputs, 5 * channels + 2 * tile
    else:
        streamed, between = channels + outputs, 3 * channels + 2 * tile
    fixed = channels * outputs * (size + 4 if backward else size)
    return make_plan(Tokens(clips, tokens, size), Needs(streamed, between, fixed), settings.chip)


def _forward_body(body: Body, factors: None, x_ref: Ref, *refs: Ref) -> None:
    *weights, out_ref, normal_ref = refs
    weights = NormDense(*weights)
    normal, _ = normalized(x_ref[...].astype(jnp.float32), weights, body.epsilon)
    normal_ref[...] = normal.astype(normal_ref.dtype)

    def one_tile(outputs: slice) -> None:
        out = dot(normal_ref[...], weights.kernel[:, outputs], PLAIN) + weights.bias[:, outputs]
        out_ref[:, outputs] = out.astype(out_ref.dtype)

    token_calls.for_each_tile(out_ref.shape[-1], one_tile)


def _backward_body(
    body: Body, factors: None, x_ref: Ref, out_grad: Ref, x_out_grad: Ref, *refs: Ref
) -> None:
    weights, (x_grad_ref, *refs) = NormDense(*refs[:_COUNT]), refs[_COUNT:]
    grads, (normal_ref, normal_grad) = NormDense(*refs[:_COUNT]), refs[_COUNT:]
    token_calls.clear_at_first(grads)
    normal, saved = normalized(x_ref[...].astype(jnp.float32), weights, body.epsilon)
    normal_ref[...] = normal.astype(normal_ref.dtype)
    normal_grad[...] = jnp.zeros_like(normal_grad)

    def one_tile(outputs: slice) -> None:
        grad = out_grad[:, outputs]
        grads.bias[:, outputs] += column_sums(grad.astype(jnp.float32))
        grads.kernel[:, outputs] += dot(normal_ref[...], grad, OVER_ROWS)
        normal_grad[...] += dot(grad, weights.kernel[:, outputs], OVER_LANES)

    token_calls.for_each_tile(out_grad.shape[-1], one_tile)
    x_grad = normalized_grad(normal_grad[...], saved, weights, grads)
    x_grad_ref[...] = (x_grad + x_out_grad[...].astype(jnp.float32)).astype(x_grad_ref.dtype)
