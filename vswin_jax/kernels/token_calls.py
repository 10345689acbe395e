"""The `pallas_call` that the token kernels share: blocks of tokens stream past resident weights.

The grid is (split, step), and a step is a block of tokens of one clip. A kernel gets the following
references, in this order: the drop-path factors of the clips, or None; blocks of tokens `[R, C]`;
whole weights; blocks of results; gradients of the weights; scratch. Vectors are `[1, n]`.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from vswin_jax.kernels.chip_memory import ChipMemory
from vswin_jax.kernels.token_tiling import TokenTiling, channel_tile
from vswin_jax.runtime.lazy_module import LazyModule

pl = LazyModule("jax.experimental.pallas")
pltpu = LazyModule("jax.experimental.pallas.tpu")

# A reference to a block in VMEM or SMEM, which is read and written by indexing.
Ref = Any
# Channels of a tile, as an index of a reference: a slice, or a `pl.Slice`, which may start at a
# traced value.
Tile = Any


@dataclass(frozen=True)
class TokenKernelConfig:
    """Static configuration of the token kernels.

    Attributes:
      epsilon: epsilon of LayerNorm.
      chip: the chip whose memory the blocks must fit.
      interpret: run the kernels in Pallas' interpreter, without a TPU.
    """

    epsilon: float
    chip: ChipMemory
    interpret: bool


@dataclass(frozen=True)
class TokenContext:
    """Static values that a kernel body needs.

    Attributes:
      steps: number of steps in each split of the grid.
      blocks: number of blocks of tokens in each clip.
      epsilon: epsilon of LayerNorm.
    """

    steps: int
    blocks: int
    epsilon: float

    def drop_path(self, factors: Ref | None, branch: int) -> Callable[[jax.Array], jax.Array]:
        """Return a function that applies stochastic depth to a residual branch.

        `factors` are `[branches, clips]`; the factor of the current step's clip is used. A dropped
        branch becomes 0 even if its values are not finite.
        """
        if factors is None:
            return lambda x: x
        step = pl.program_id(0) * self.steps + pl.program_id(1)
        factor = factors[branch, step // self.blocks]
        return lambda x: jnp.where(factor > 0, x * factor, 0.0)


def for_each_tile(channels: int, function: Callable[[Tile], None]) -> None:
    """Call `function(tile)` for each tile of the channels, in a loop.

    A loop, because unrolled tiles would multiply the length of the kernel's program.
    """
    tile = channel_tile(channels)
    if tile == channels:
        function(slice(None))
        return

    def body(index: jax.Array, _: None) -> None:
        function(pl.ds(pl.multiple_of(index * tile, tile), tile))

    lax.fori_loop(0, channels // tile, body, None)


def zero_at_first_step(refs: Sequence[Ref]) -> None:
    """Set the accumulators `refs` to zero at the first step of each split."""

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for ref in refs:
            ref[...] = jnp.zeros_like(ref)


def call_token_kernel(
    kernel: Callable[..., None],
    tiling: TokenTiling,
    config: TokenKernelConfig,
    *,
    name: str,
    tokens: Sequence[jax.Array],
    factors: jax.Array | None,
    weights: Sequence[jax.Array],
    results: Sequence[int],
    gradients: bool,
    scratch: Sequence[tuple[int, DTypeLike]],
    macs: int,
) -> tuple[Sequence[jax.Array], list[jax.Array]]:
    """Run `kernel(context, *refs)` over all blocks of tokens.

    Args:
      kernel: body of the kernel; see the module's docstring for the order of its references.
      tiling: the blocks.
      config: configuration of the kernel.
      name: name of the kernel in profiles and in the compiled program.
      tokens: arrays `[B, T, c]`.
      factors: float32 `[branches, B]`, or None.
      weights: matrices and vectors.
      results: channels of each output `[B, T, c]`, in the dtype of `tokens[0]`.
      gradients: also return float32 gradients of the weights.
      scratch: channels and dtype of each scratch buffer `[R, c]`.
      macs: multiply-accumulates per token, for XLA's cost model.

    Returns:
      The results, and the gradients in the shapes of the weights.
    """
    matrices = [weight if weight.ndim == 2 else weight[None] for weight in weights]
    shapes = [(tiling.splits, *matrix.shape) for matrix in matrices] if gradients else []
    clips, count, _ = tokens[0].shape
    outputs = [jax.ShapeDtypeStruct((clips, count, n), tokens[0].dtype) for n in results]
    outputs += [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    operands = [*([] if factors is None else [factors]), *tokens, *matrices]
    out = pl.pallas_call(
        _bind_context(kernel, tiling, config, has_factors=factors is not None),
        outputs,
        grid=(tiling.splits, tiling.steps),
        in_specs=[
            *([] if factors is None else [pl.BlockSpec(memory_space=pltpu.SMEM)]),
            *(_token_block(tiling, array.shape[-1]) for array in tokens),
            *(_whole_array(matrix.shape) for matrix in matrices),
        ],
        out_specs=[*(_token_block(tiling, n) for n in results), *map(_gradient_block, shapes)],
        scratch_shapes=[pltpu.VMEM((tiling.rows, n), dtype) for n, dtype in scratch],
        compiler_params=_compiler_params(tiling, config, accumulates=gradients),
        cost_estimate=_cost_estimate(macs * clips * count, [*tokens, *matrices, *outputs]),
        interpret=config.interpret,
        name=name,
    )(*operands)
    # Each core has summed its own blocks; the sum over cores completes the gradients.
    pairs = zip(out[len(results) :], weights, strict=False)
    return out[: len(results)], [grads.sum(0).reshape(weight.shape) for grads, weight in pairs]


def _bind_context(
    kernel: Callable[..., None], tiling: TokenTiling, config: TokenKernelConfig, has_factors: bool
) -> Callable[..., None]:
    """Bind the context, and None for the factors where Pallas passes no reference for them."""
    context = TokenContext(tiling.steps, tiling.blocks, config.epsilon)
    return functools.partial(kernel, context, *([] if has_factors else [None]))


def _cost_estimate(
    macs: int, arrays: Sequence[jax.Array | jax.ShapeDtypeStruct]
) -> "pl.CostEstimate":
    num_bytes = sum(array.size * array.dtype.itemsize for array in arrays)
    return pl.CostEstimate(flops=2 * macs, transcendentals=0, bytes_accessed=num_bytes)


def _token_block(tiling: TokenTiling, channels: int) -> "pl.BlockSpec":
    """Return the spec of a block of one clip, of an array `[B, T, c]`."""

    def index_map(split: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        block = split * tiling.steps + step
        return block // tiling.blocks, block % tiling.blocks, 0

    return pl.BlockSpec((None, tiling.rows, channels), index_map)


def _whole_array(shape: tuple[int, ...]) -> "pl.BlockSpec":
    """Return the spec of an array that stays in VMEM; as it never changes, one buffer is enough."""
    return pl.BlockSpec(shape, lambda split, step: (0, 0), pipeline_mode=pl.Buffered(1))


def _gradient_block(shape: tuple[int, ...]) -> "pl.BlockSpec":
    """Return the spec of a core's own part of `[splits, m, n]`, to which all its steps add."""
    block = (None, *shape[1:])
    return pl.BlockSpec(block, lambda split, step: (split, 0, 0), pipeline_mode=pl.Buffered(1))


def _compiler_params(
    tiling: TokenTiling, config: TokenKernelConfig, accumulates: bool
) -> "pltpu.CompilerParams":
    # Steps that add to the same gradients must run in order on one core.
    steps = "arbitrary" if accumulates else "parallel"
    limit = config.chip.vmem_limit(tiling.vmem_bytes)
    return pltpu.CompilerParams(dimension_semantics=("parallel", steps), vmem_limit_bytes=limit)
