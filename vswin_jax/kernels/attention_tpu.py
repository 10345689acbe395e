"""Window attention on TPUs: a forward and a backward Pallas kernel that keep the logits in VMEM.

The backward kernel recomputes the logits from queries and keys, so only the operands are saved. The
steps over windows are the innermost axis of the grid: each block of the bias, and of its gradient,
stays in VMEM while all windows stream past it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vswin_jax.kernels import attention_tpu_bodies
from vswin_jax.kernels.attention_tpu_block_specs import AttentionBlockSpecs
from vswin_jax.kernels.attention_tpu_tiling import (
    SUBLANES,
    AttentionSizes,
    AttentionTiling,
    choose_attention_tiling,
)
from vswin_jax.kernels.chip_memory import ChipMemory
from vswin_jax.runtime.lazy_module import LazyModule

pl = LazyModule("jax.experimental.pallas")
pltpu = LazyModule("jax.experimental.pallas.tpu")


class AttentionKernelConfig(NamedTuple):
    """Static configuration of the attention kernels.

    Attributes:
      heads: number of attention heads.
      scale: factor on the queries.
      chip: the chip whose memory the blocks must fit.
      interpret: run the kernels in Pallas' interpreter, without a TPU.
    """

    heads: int
    scale: float
    chip: ChipMemory
    interpret: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend(
    qkv: Float[Array, "G N qkv"],
    bias: Float[Array, "heads N N"],
    segment_ids: Int[Array, "windows N"] | None,
    config: AttentionKernelConfig,
) -> Float[Array, "G N C"]:
    """Return the attention of `G` windows, whose channels `C` are `[heads, dim]`.

    `qkv` has the channels `[3, heads, dim]`; `bias` is float32. The segment ids of window g are in
    row g % windows.
    """
    return _run_forward(qkv, bias, segment_ids, config)


def _fwd(
    qkv: jax.Array, bias: jax.Array, segment_ids: jax.Array | None, config: AttentionKernelConfig
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array | None]]:
    return _run_forward(qkv, bias, segment_ids, config), (qkv, bias, segment_ids)


def _bwd(
    config: AttentionKernelConfig,
    residuals: tuple[jax.Array, jax.Array, jax.Array | None],
    out_grad: jax.Array,
) -> tuple[jax.Array, jax.Array, None]:
    qkv, bias, segment_ids = residuals
    return *_run_backward(qkv, bias, segment_ids, out_grad, config), None


attend.defvjp(_fwd, _bwd)


def tiling_for(
    qkv: Float[Array | jax.ShapeDtypeStruct, "G N qkv"],
    segment_ids: Int[Array | jax.ShapeDtypeStruct, "windows N"] | None,
    config: AttentionKernelConfig,
    backward: bool,
) -> AttentionTiling | None:
    """Return the blocks of a kernel for these arrays, or None if no blocks fit the chip."""
    windows, tokens, lanes = qkv.shape
    sizes = AttentionSizes(
        windows=windows,
        tokens=tokens,
        heads=config.heads,
        dim=lanes // 3 // config.heads,
        period=0 if segment_ids is None else segment_ids.shape[0],
        itemsize=qkv.dtype.itemsize,
    )
    return choose_attention_tiling(sizes, config.chip, backward)


def _common_operands(
    qkv: jax.Array, bias: jax.Array, segment_ids: jax.Array | None, specs: AttentionBlockSpecs
) -> "tuple[list[jax.Array], list[pl.BlockSpec], list[pl.MemoryRef]]":
    """Return the operands of both kernels, their specs, and the scratch buffers of the mask."""
    operands, blocks = [*[qkv] * len(specs.qkv()), bias], [*specs.qkv(), specs.bias()]
    if segment_ids is None:
        return operands, blocks, []
    operands.append(segment_ids.astype(jnp.int32)[:, None])
    blocks.append(specs.segment_ids())
    tiling, tokens = specs.tiling, specs.sizes.tokens
    id_columns = pltpu.VMEM((tokens, SUBLANES), jnp.int32)
    return operands, blocks, [id_columns, pltpu.VMEM((tiling.rows, tokens), jnp.float32)]


def _run_forward(
    qkv: jax.Array, bias: jax.Array, segment_ids: jax.Array | None, config: AttentionKernelConfig
) -> jax.Array:
    tiling = tiling_for(qkv, segment_ids, config, backward=False)
    specs, sizes = AttentionBlockSpecs(tiling), tiling.sizes
    operands, blocks, scratch = _common_operands(qkv, bias, segment_ids, specs)
    block = tiling.block(config.scale, segment_ids is not None)
    return pl.pallas_call(
        functools.partial(attention_tpu_bodies.forward, block),
        _shape_like(qkv, (*qkv.shape[:2], sizes.channels)),
        grid=(tiling.splits, tiling.groups, tiling.tiles, tiling.steps),
        in_specs=blocks,
        out_specs=specs.out(),
        scratch_shapes=scratch,
        compiler_params=_compiler_params(tiling, config, ["parallel"] * 4),
        cost_estimate=_cost_estimate(tiling, products=2, backward=False),
        interpret=config.interpret,
        name="window_attention",
    )(*operands)


def _run_backward(
    qkv: jax.Array,
    bias: jax.Array,
    segment_ids: jax.Array | None,
    out_grad: jax.Array,
    config: AttentionKernelConfig,
) -> tuple[jax.Array, jax.Array]:
    """Return the gradients of qkv and of the bias."""
    tiling = tiling_for(qkv, segment_ids, config, backward=True)
    specs = AttentionBlockSpecs(tiling)
    operands, blocks, mask_scratch = _common_operands(qkv, bias, segment_ids, specs)
    block = tiling.block(config.scale, segment_ids is not None)
    shapes, out_specs, scratch = _qkv_grad_outputs(qkv, out_grad, specs)
    grid = (tiling.splits, tiling.groups, tiling.tiles, tiling.steps)
    if not (block.is_tiled or tiling.packed):
        grid = (*grid, 3)
    # The steps of a block add to the same bias gradient, so they must run in order on one core.
    order = ["parallel"] * 3 + ["arbitrary"] * (len(grid) - 3)
    bias_grad, *grads = pl.pallas_call(
        functools.partial(attention_tpu_bodies.backward, block),
        [_shape_like(bias, (tiling.splits, *bias.shape)), *shapes],
        grid=grid,
        in_specs=[*blocks, specs.out()],
        out_specs=[specs.bias_grad(), *out_specs],
        scratch_shapes=[*scratch, *mask_scratch],
        compiler_params=_compiler_params(tiling, config, order),
        cost_estimate=_cost_estimate(tiling, products=5, backward=True),
        interpret=config.interpret,
        name="window_attention_grad",
    )(*operands, out_grad)
    return _join_qkv_grads(grads), bias_grad.sum(0)


def _qkv_grad_outputs(
    qkv: jax.Array, out_grad: jax.Array, specs: AttentionBlockSpecs
) -> "tuple[list[jax.ShapeDtypeStruct], list[pl.BlockSpec], list[pl.MemoryRef]]":
    """Return the shapes, the specs and the scratch buffers of the gradients of qkv.

    A tile of queries writes its rows of the gradient of queries, and its part of those of keys and
    values, which are summed later. Without tiles one array is written from three scratch buffers.
    """
    tiling = specs.tiling
    if tiling.tiles > 1:
        parts = _shape_like(qkv, (tiling.tiles, *out_grad.shape))
        shapes = [_shape_like(qkv, out_grad.shape), parts, parts]
        return shapes, [specs.out(), specs.key_grad(), specs.key_grad()], []
    scratch = pltpu.VMEM((tiling.block_windows, specs.sizes.tokens, tiling.lanes), qkv.dtype)
    return [_shape_like(qkv, qkv.shape)], [specs.qkv_grad()], [scratch] * 3


def _shape_like(x: jax.Array, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """Return an output shape with the dtype of `x` that varies over the mesh axes that `x` does."""
    return jax.ShapeDtypeStruct(shape, x.dtype, manual_axis_type=jax.typeof(x).manual_axis_type)


def _join_qkv_grads(grads: list[jax.Array]) -> jax.Array:
    """Return the gradient of qkv from one array, or from queries and the parts of keys and values.

    Parts are summed in float32.
    """
    if len(grads) == 1:
        return grads[0]
    queries, *parts = grads
    return jnp.concatenate(
        [queries, *(part.astype(jnp.float32).sum(0).astype(part.dtype) for part in parts)], -1
    )


def _compiler_params(
    tiling: AttentionTiling, config: AttentionKernelConfig, order: list[str]
) -> "pltpu.CompilerParams":
    limit = config.chip.vmem_limit(tiling.vmem_bytes)
    return pltpu.CompilerParams(dimension_semantics=tuple(order), vmem_limit_bytes=limit)


def _cost_estimate(tiling: AttentionTiling, products: int, backward: bool) -> "pl.CostEstimate":
    """Count the FLOPs of the matrix products and the bytes moved, repeated reads included."""
    sizes = tiling.sizes
    pairs = sizes.windows * sizes.heads * sizes.tokens**2
    token_bytes = sizes.windows * sizes.tokens * sizes.channels * sizes.itemsize
    # Each tile of queries reads the keys and values again; a packed block includes all queries too.
    reads = 3 * tiling.tiles if tiling.packed else 1 + 2 * tiling.tiles
    moved = 1 + (1 + 2 * tiling.tiles if backward else 0)
    squares = sizes.heads * sizes.tokens**2 * 4
    bias_bytes = squares * (2 * tiling.splits if backward else 1)
    if sizes.period:
        bias_bytes += tiling.groups * tiling.tiles * sizes.windows * sizes.tokens * 4
    return pl.CostEstimate(
        flops=2 * products * pairs * sizes.dim,
        transcendentals=pairs,
        bytes_accessed=token_bytes * (reads + moved) + bias_bytes,
    )
