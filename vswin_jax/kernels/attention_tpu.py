"""Window attention on TPUs as two kernels, forward and backward, that keep logits on the chip.

The backward kernel computes the logits again from queries and keys, so nothing but the operands is
saved. Each block of the bias stays on the chip while all windows pass by, and so does its gradient.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vswin_jax.kernels import attention_tpu_bodies
from vswin_jax.kernels.attention_tpu_tiling import SUBLANES, Plan, Sizes, make_plan
from vswin_jax.kernels.chip_memory import Chip


class Settings(NamedTuple):
    """heads; scale: on the queries; chip: what the blocks must fit; interpret: without a TPU."""

    heads: int
    scale: float
    chip: Chip
    interpret: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend(
    qkv: jax.Array, bias: jax.Array, regions: jax.Array | None, settings: Settings
) -> jax.Array:
    """Attention of windows `[G, N, 3 * C]`, C being `[heads, dim]`, to `[G, N, C]`.

    `bias` is float32 `[heads, N, N]`. `regions` are ids `[windows, N]`, those of window g in row
    g % windows, or None.
    """
    return _forward(qkv, bias, regions, settings)


def _save(
    qkv: jax.Array, bias: jax.Array, regions: jax.Array | None, settings: Settings
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array | None]]:
    return _forward(qkv, bias, regions, settings), (qkv, bias, regions)


def _restore(
    settings: Settings,
    saved: tuple[jax.Array, jax.Array, jax.Array | None],
    out_grad: jax.Array,
) -> tuple[jax.Array, jax.Array, None]:
    return *_backward(*saved, out_grad, settings), None


attend.defvjp(_save, _restore)


def plan_for(
    qkv: jax.Array, regions: jax.Array | None, settings: Settings, backward: bool
) -> Plan | None:
    """The blocks of a kernel for `[G, N, 3 * C]`; None where no plan fits the chip."""
    windows, tokens, lanes = qkv.shape
    period = 0 if regions is None else regions.shape[0]
    dim = lanes // 3 // settings.heads
    sizes = Sizes(windows, tokens, settings.heads, dim, period, qkv.dtype.itemsize)
    return make_plan(sizes, settings.chip, backward)


class _Specs:
    """The blocks of each kind of array, by the grid (split, group, tile, step[, part])."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.sizes = plan, plan.sizes

    def _window(self, split: jax.Array, step: jax.Array) -> jax.Array:
        return split * self.plan.steps + step

    def qkv(self) -> list[pl.BlockSpec]:
        """One block of all channels, or three of a group's lanes in the same array."""
        plan, tokens = self.plan, self.sizes.tokens
        if plan.packed:
            shape = (plan.block_windows, tokens, 3 * self.sizes.channels)
            return [pl.BlockSpec(shape, lambda s, g, t, i, *_: (self._window(s, i), 0, 0))]
        queries = (plan.block_windows, plan.rows, plan.lanes)
        keys = (plan.block_windows, tokens, plan.lanes)
        groups = plan.groups
        return [
            pl.BlockSpec(queries, lambda s, g, t, i, *_: (self._window(s, i), t, g)),
            pl.BlockSpec(keys, lambda s, g, t, i, *_: (self._window(s, i), 0, groups + g)),
            pl.BlockSpec(keys, lambda s, g, t, i, *_: (self._window(s, i), 0, 2 * groups + g)),
        ]

    def bias(self) -> pl.BlockSpec:
        """A group's; it changes so seldom that one buffer is enough."""
        shape = (self.plan.block_heads, self.plan.rows, self.sizes.tokens)
        return pl.BlockSpec(shape, lambda s, g, t, *_: (g, t, 0), pipeline_mode=pl.Buffered(1))

    def bias_grad(self) -> pl.BlockSpec:
        """As `bias`, of `[splits, heads, N, N]`."""
        shape = (None, self.plan.block_heads, self.plan.rows, self.sizes.tokens)
        return pl.BlockSpec(shape, lambda s, g, t, *_: (s, g, t, 0), pipeline_mode=pl.Buffered(1))

    def regions(self) -> pl.BlockSpec:
        """Of `[period, 1, N]`."""
        plan = self.plan
        repeat = self.sizes.period // plan.block_windows
        shape = (plan.block_windows, 1, self.sizes.tokens)
        return pl.BlockSpec(shape, lambda s, g, t, i, *_: (self._window(s, i) % repeat, 0, 0))

    def out(self) -> pl.BlockSpec:
        """Of `[G, N, C]`, queries as in `qkv`."""
        shape = (self.plan.block_windows, self.plan.rows, self.plan.lanes)
        return pl.BlockSpec(shape, lambda s, g, t, i, *_: (self._window(s, i), t, g))

    def key_grad(self) -> pl.BlockSpec:
        """Of `[tiles, G, N, C]`: what each tile of queries adds."""
        shape = (None, self.plan.block_windows, self.sizes.tokens, self.plan.lanes)
        return pl.BlockSpec(shape, lambda s, g, t, i, *_: (t, self._window(s, i), 0, g))

    def qkv_grad(self) -> pl.BlockSpec:
        """All of a window's, or a group's lanes of queries, keys or values, by the part."""
        if self.plan.packed:
            return self.qkv()[0]
        shape = (self.plan.block_windows, self.sizes.tokens, self.plan.lanes)
        groups = self.plan.groups
        return pl.BlockSpec(
            shape, lambda s, g, t, i, part: (self._window(s, i), 0, part * groups + g)
        )


def _shared(
    qkv: jax.Array, bias: jax.Array, regions: jax.Array | None, specs: _Specs
) -> tuple[list[jax.Array], list[pl.BlockSpec], list[pl.MemoryRef]]:
    """The operands of both kernels, their blocks, and the scratch of the mask."""
    operands, blocks = [*[qkv] * len(specs.qkv()), bias], [*specs.qkv(), specs.bias()]
    if regions is None:
        return operands, blocks, []
    operands.append(regions.astype(jnp.int32)[:, None])
    blocks.append(specs.regions())
    plan, tokens = specs.plan, specs.sizes.tokens
    columns = pltpu.VMEM((tokens, SUBLANES), jnp.int32)
    return operands, blocks, [columns, pltpu.VMEM((plan.rows, tokens), jnp.float32)]


def _forward(
    qkv: jax.Array, bias: jax.Array, regions: jax.Array | None, settings: Settings
) -> jax.Array:
    plan = plan_for(qkv, regions, settings, backward=False)
    specs, sizes = _Specs(plan), plan.sizes
    operands, blocks, scratch = _shared(qkv, bias, regions, specs)
    body = plan.body(settings.scale, regions is not None)
    return pl.pallas_call(
        functools.partial(attention_tpu_bodies.forward, body),
        _like(qkv, (*qkv.shape[:2], sizes.channels)),
        grid=(plan.splits, plan.groups, plan.tiles, plan.steps),
        in_specs=blocks,
        out_specs=specs.out(),
        scratch_shapes=scratch,
        compiler_params=_compiler_params(plan, settings, ["parallel"] * 4),
        cost_estimate=_cost(plan, products=2, backward=False),
        interpret=settings.interpret,
        name="window_attention",
    )(*operands)


def _backward(
    qkv: jax.Array,
    bias: jax.Array,
    regions: jax.Array | None,
    out_grad: jax.Array,
    settings: Settings,
) -> tuple[jax.Array, jax.Array]:
    plan = plan_for(qkv, regions, settings, backward=True)
    specs, sizes = _Specs(plan), plan.sizes
    operands, blocks, scratch = _shared(qkv, bias, regions, specs)
    body = plan.body(settings.scale, regions is not None)
    out_shapes = [_like(bias, (plan.splits, *bias.shape))]
    out_specs, grid = [specs.bias_grad()], (plan.splits, plan.groups, plan.tiles, plan.steps)
    if body.tiled:
        keys = _like(qkv, (plan.tiles, *out_grad.shape))
        out_shapes += [_like(qkv, out_grad.shape), keys, keys]
        out_specs += [specs.out(), specs.key_grad(), specs.key_grad()]
    else:
        out_shapes += [_like(qkv, qkv.shape)]
        out_specs += [specs.qkv_grad()]
        shape = (plan.block_windows, sizes.tokens, plan.lanes)
        scratch = [*[pltpu.VMEM(shape, qkv.dtype)] * 3, *scratch]
        grid = grid if plan.packed else (*grid, 3)
    order = ["parallel"] * 3 + ["arbitrary"] * (len(grid) - 3)
    bias_grad, *grads = pl.pallas_call(
        functools.partial(attention_tpu_bodies.backward, body),
        out_shapes,
        grid=grid,
        in_specs=[*blocks, specs.out()],
        out_specs=out_specs,
        scratch_shapes=scratch,
        compiler_params=_compiler_params(plan, settings, order),
        cost_estimate=_cost(plan, products=5, backward=True),
        interpret=settings.interpret,
        name="window_attention_grad",
    )(*operands, out_grad)
    return _joined(grads), bias_grad.sum(0)


def _like(x: jax.Array, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """A result of the dtype of `x`, which differs between devices where `x` does."""
    return jax.ShapeDtypeStruct(shape, x.dtype, manual_axis_type=jax.typeof(x).manual_axis_type)


def _joined(grads: list[jax.Array]) -> jax.Array:
    """The gradient of qkv, of one array or of queries and the parts of keys and values."""
    if len(grads) == 1:
        return grads[0]
    queries, *parts = grads
    return jnp.concatenate(
        [queries, *(part.astype(jnp.float32).sum(0).astype(part.dtype) for part in parts)], -1
    )


def _compiler_params(plan: Plan, settings: Settings, order: list[str]) -> pltpu.CompilerParams:
    limit = settings.chip.limit(plan.vector_memory)
    return pltpu.CompilerParams(dimension_semantics=tuple(order), vmem_limit_bytes=limit)


def _cost(plan: Plan, products: int, backward: bool) -> pl.CostEstimate:
    """FLOPs of the matrix products, and bytes moved, blocks that are read again included."""
    sizes = plan.sizes
    pairs = sizes.windows * sizes.heads * sizes.tokens**2
    token_bytes = sizes.windows * sizes.tokens * sizes.channels * sizes.itemsize
    # Keys and values again for each tile of queries; a packed block has its queries each time too.
    reads = 3 * plan.tiles if plan.packed else 1 + 2 * plan.tiles
    moved = 1 + (1 + 2 * plan.tiles if backward else 0)
    squares = sizes.heads * sizes.tokens**2 * 4
    bias_bytes = squares * (2 * plan.splits if backward else 1)
    if sizes.period:
        bias_bytes += plan.groups * plan.tiles * sizes.windows * sizes.tokens * 4
    return pl.CostEstimate(
        flops=2 * products * pairs * sizes.dim,
        transcendentals=pairs,
        bytes_accessed=token_bytes * (reads + moved) + bias_bytes,
    )
