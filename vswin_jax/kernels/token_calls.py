"""What the calls of the kernels have in common: blocks of tokens pass, weights stay.

The grid is (split, step), a step being a block of tokens of one clip. A kernel gets, in this order,
the factors of the clips or None, blocks of tokens `[R, C]`, whole weights, blocks of results,
gradients of the weights, and scratch. Vectors are `[1, n]`.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vswin_jax.kernels.chip_memory import Chip
from vswin_jax.kernels.token_tiling import Plan, tile_of

Ref = jax.Array


@dataclass(frozen=True)
class Settings:
    """epsilon: of LayerNorm; chip: what the blocks must fit; interpret: without a TPU."""

    epsilon: float
    chip: Chip
    interpret: bool


@dataclass(frozen=True)
class Body:
    """What a kernel knows beforehand: the steps of each split, the blocks of a clip, epsilon."""

    steps: int
    blocks: int
    epsilon: float

    def scale(self, factors: Ref | None, branch: int) -> Callable[[jax.Array], jax.Array]:
        """What stochastic depth does to a branch of the clip of this step.

        One that is dropped is 0, even if it is not finite. `factors` are `[branches, clips]`.
        """
        if factors is None:
            return lambda x: x
        step = pl.program_id(0) * self.steps + pl.program_id(1)
        factor = factors[branch, step // self.blocks]
        return lambda x: jnp.where(factor > 0, x * factor, 0.0)


def for_each_tile(channels: int, do: Callable[[Any], None]) -> None:
    """`do(slice)` for each tile of the channels, a loop on the chip: its program is there once."""
    tile = tile_of(channels)
    if tile == channels:
        do(slice(None))
        return

    def one_tile(index: jax.Array, _: None) -> None:
        do(pl.ds(pl.multiple_of(index * tile, tile), tile))

    lax.fori_loop(0, channels // tile, one_tile, None)


def clear_at_first(refs: Sequence[Ref]) -> None:
    """Zeros, at the first step of each split, in what all steps add to."""

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for ref in refs:
            ref[...] = jnp.zeros_like(ref)


def over_tokens(
    kernel: Callable[..., None],
    plan: Plan,
    settings: Settings,
    *,
    name: str,
    tokens: Sequence[jax.Array],
    factors: jax.Array | None,
    weights: Sequence[jax.Array],
    results: Sequence[int],
    gradients: bool,
    scratch: Sequence[tuple[int, jnp.dtype]],
    macs: int,
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Calls `kernel(body, *refs)`.

    Args:
      tokens: arrays `[B, T, c]`.
      factors: float32 `[branches, B]`, or None.
      weights: matrices and vectors.
      results: the channels of each array `[B, T, c]` that comes out, in the dtype of the first one
        of `tokens`.
      gradients: whether gradients of the weights come out too, in float32.
      scratch: channels and dtype of each.
      macs: multiply-accumulates of a token.

    Returns:
      The results, and the gradients in the shapes of the weights.
    """
    matrices = [weight if weight.ndim == 2 else weight[None] for weight in weights]
    shapes = [(plan.splits, *matrix.shape) for matrix in matrices] if gradients else []
    clips, count, _ = tokens[0].shape
    outputs = [jax.ShapeDtypeStruct((clips, count, n), tokens[0].dtype) for n in results]
    outputs += [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    kernel = functools.partial(kernel, Body(plan.steps, plan.blocks, settings.epsilon))
    given = [] if factors is None else [factors]
    out = pl.pallas_call(
        # None is no operand.
        kernel if given else functools.partial(kernel, None),
        outputs,
        grid=(plan.splits, plan.steps),
        in_specs=[
            *(pl.BlockSpec(memory_space=pltpu.SMEM) for _ in given),
            *(_tokens(plan, array.shape[-1]) for array in tokens),
            *(_whole(matrix.shape) for matrix in matrices),
        ],
        out_specs=[*(_tokens(plan, n) for n in results), *map(_gradient, shapes)],
        scratch_shapes=[pltpu.VMEM((plan.rows, n), dtype) for n, dtype in scratch],
        compiler_params=_compiler_params(plan, settings, "arbitrary" if gradients else "parallel"),
        cost_estimate=pl.CostEstimate(
            flops=2 * macs * clips * count,
            transcendentals=0,
            bytes_accessed=sum(map(_bytes, [*tokens, *matrices, *outputs])),
        ),
        interpret=settings.interpret,
        name=name,
    )(*given, *tokens, *matrices)
    pairs = zip(out[len(results) :], weights, strict=False)
    return out[: len(results)], [grads.sum(0).reshape(weight.shape) for grads, weight in pairs]


def _bytes(array: jax.Array | jax.ShapeDtypeStruct) -> int:
    return array.size * array.dtype.itemsize


def _tokens(plan: Plan, channels: int) -> pl.BlockSpec:
    """A block of one clip, of `[B, T, c]`."""

    def place(split: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        block = split * plan.steps + step
        return block // plan.blocks, block % plan.blocks, 0

    return pl.BlockSpec((None, plan.rows, channels), place)


def _whole(shape: tuple[int, ...]) -> pl.BlockSpec:
    """All of an array at every step: one buffer is enough."""
    return pl.BlockSpec(shape, lambda split, step: (0, 0), pipeline_mode=pl.Buffered(1))


def _gradient(shape: tuple[int, ...]) -> pl.BlockSpec:
    """A core's part of `[splits, m, n]`, which stays while all steps add to it."""
    block = (None, *shape[1:])
    return pl.BlockSpec(block, lambda split, step: (split, 0, 0), pipeline_mode=pl.Buffered(1))


def _compiler_params(plan: Plan, settings: Settings, steps: str) -> pltpu.CompilerParams:
    limit = settings.chip.limit(plan.vector_memory)
    return pltpu.CompilerParams(dimension_semantics=("parallel", steps), vmem_limit_bytes=limit)
