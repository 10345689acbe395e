"""FLOPs and bytes of HLO: against XLA's own count, and on instructions written by hand."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from vswin_jax.analysis.compiled_program import read_program
from vswin_jax.analysis.hlo_cost import (
    execution_bytes,
    loop_factors,
    memory_traffic,
    program_cost,
)
from vswin_jax.analysis.hlo_flops import execution_flops
from vswin_jax.analysis.hlo_text import parse_module

TPU_PROGRAM = Path(__file__).parents[1] / "data" / "tpu_program.txt"


def compiled(layers: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.stages.Compiled:
    """Compile the gradient of linear layers, x float32 [64, 128], w [layers, 128, 128]."""

    def gradient(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.grad(lambda w: layers(x, w).sum())(w)

    x, w = jnp.zeros((64, 128)), jnp.zeros((6, 128, 128))
    return jax.jit(gradient).lower(x, w).compile()


def scanned(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]


def unrolled(x: jax.Array, w: jax.Array) -> jax.Array:
    for layer in range(6):
        x = jnp.tanh(x @ w[layer])
    return x


def test_a_loop_costs_as_much_as_its_unrolled_trips() -> None:
    loop, flat = read_program(compiled(scanned)), read_program(compiled(unrolled))
    assert loop.flops == pytest.approx(flat.flops, rel=0.1)
    # 6 layers of 3 products, without the unused gradient of x, each of 2 * 64 * 128 * 128 FLOPs.
    assert flat.flops == pytest.approx(17 * 2 * 64 * 128 * 128, rel=0.02)
    # A loop also reads and writes the slices of its stacked arrays.
    assert 1.0 <= loop.bytes_accessed / flat.bytes_accessed < 2.0


@pytest.mark.parametrize("layers", [scanned, unrolled])
def test_with_loop_bodies_once_the_count_is_nearly_that_of_xla(
    layers: Callable[[jax.Array, jax.Array], jax.Array],
) -> None:
    program = compiled(layers)
    module, cost = parse_module(program.as_text()), program.cost_analysis()
    # XLA counts the additions and tanh of the products' outputs as well.
    assert sum(map(execution_flops, module.executions)) == pytest.approx(cost["flops"], rel=0.05)
    moved = sum(execution_bytes(module, execution) for execution in module.executions)
    assert moved == pytest.approx(cost["bytes accessed"], rel=0.05)


def test_loop_factors_of_a_program_without_loops_are_one() -> None:
    assert loop_factors(parse_module(compiled(unrolled).as_text())) == (1.0, 1.0)


def test_flops_of_a_tpu_program() -> None:
    module = parse_module(TPU_PROGRAM.read_text())
    counted = [(execution.times, execution_flops(execution)) for execution in module.executions]
    product = 2 * 256 * 512 * 512
    # The product of the loops, one forward and two backward, and a product outside of them.
    assert sorted(pair for pair in counted if pair[1]) == [(1, product)] + [(5, product)] * 3
    assert loop_factors(module)[0] == 4.0


@pytest.mark.parametrize(
    ("window", "data", "kernel", "result", "positions"),
    [
        ("size=3 pad=1_1", 5, 3, 5, 3 * 5 - 2),
        ("size=2 stride=2", 6, 2, 3, 6),
        # A batch of four products in a TPU program: each result index reads one index of data.
        ("size=4 stride=3 pad=3_3 lhs_dilate=4", 4, 4, 4, 4),
        ("size=2 rhs_dilate=2", 5, 2, 3, 6),
    ],
)
def test_padding_has_no_flops_in_a_convolution(
    window: str, data: int, kernel: int, result: int, positions: int
) -> None:
    attributes = f"window={{{window}}}, dim_labels=b0f_0io->b0f"
    text = f"""HloModule m

ENTRY %main (x: f32[2,{data},3], k: f32[{kernel},3,7]) -> f32[2,{result},7] {{
  %x = f32[2,{data},3]{{2,1,0}} parameter(0)
  %k = f32[{kernel},3,7]{{2,1,0}} parameter(1)
  ROOT %c = f32[2,{result},7]{{2,1,0}} convolution(%x, %k), {attributes}
}}
"""
    module = parse_module(text)
    assert sum(map(execution_flops, module.executions)) == 2 * 2 * 7 * 3 * positions


@pytest.mark.parametrize(("target", "products"), [("Softmax", 2), ("SoftmaxBackward", 5)])
def test_flops_of_cudnn_attention_are_those_of_its_products(target: str, products: int) -> None:
    call = f'custom_call_target="__cudnn$fmhaScaleBias{target}"'
    text = f"""HloModule m

ENTRY %main (q: bf16[4,6,2,8], k: bf16[4,6,2,8]) -> bf16[4,2,6,8] {{
  %q = bf16[4,6,2,8]{{3,2,1,0}} parameter(0)
  %k = bf16[4,6,2,8]{{3,2,1,0}} parameter(1)
  ROOT %c = bf16[4,2,6,8]{{3,1,2,0}} custom-call(%q, %k), {call}
}}
"""
    flops, moved = products * 2 * (4 * 2) * 6 * 6 * 8, 3 * 2 * 4 * 6 * 2 * 8
    assert program_cost(parse_module(text)) == (flops, moved)


def test_the_cost_of_a_cublas_product_excludes_its_workspace() -> None:
    config = 'backend_config={"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"]}}'
    call = f'custom_call_target="__cublas$lt$matmul", {config}'
    text = f"""HloModule m

ENTRY %main (x: bf16[6,8], k: bf16[6,5]) -> bf16[8,5] {{
  %x = bf16[6,8]{{1,0}} parameter(0)
  %k = bf16[6,5]{{1,0}} parameter(1)
  %c = (bf16[8,5]{{1,0}}, s8[4194304]{{0}}) custom-call(%x, %k), {call}
  ROOT %out = bf16[8,5]{{1,0}} get-tuple-element(%c), index=0
}}
"""
    moved = 2 * (6 * 8 + 6 * 5 + 8 * 5)
    assert program_cost(parse_module(text)) == (2 * 8 * 5 * 6, moved)


def test_only_the_slice_of_a_sliced_array_is_read() -> None:
    text = """HloModule m

%inside (a: f32[100,4], i: s32[]) -> f32[1,4] {
  %a = f32[100,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %s = f32[1,4]{1,0} dynamic-slice(%a, %i, %zero), dynamic_slice_sizes={1,4}
}

ENTRY %main (a: f32[100,4], i: s32[], u: f32[1,4]) -> f32[100,4] {
  %a = f32[100,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %f = f32[1,4]{1,0} fusion(%a, %i), kind=kLoop, calls=%inside
  %zero = s32[] constant(0)
  ROOT %d = f32[100,4]{1,0} dynamic-update-slice(%a, %f, %i, %zero)
}
"""
    module = parse_module(text)
    moved = {
        execution.instruction.name: execution_bytes(module, execution)
        for execution in module.executions
        if not execution.fused
    }
    # The slice has 16 bytes, read and written, and an index of 4; the update has two indices.
    assert (moved["f"], moved["d"]) == (36.0, 40.0)


# A quarter of x is copied into vector memory, where `work` reads it; the tiles pad heads of 32
# channels to 128 lanes, and 10 rows to 16.
ON_CHIP = """HloModule on_chip

ENTRY %main (x: bf16[8,10,32]) -> f32[2,10,32] {
  %x = bf16[8,10,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %go = ((bf16[8,10,32]{2,1,0:T(8,128)(2,1)}), bf16[2,10,32]{2,1,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:2], [0:10], [0:32]}
  %part = bf16[2,10,32]{2,1,0:T(8,128)(2,1)S(1)} slice-done(%go)
  %same = bf16[2,10,32]{2,1,0:T(8,128)(2,1)S(1)} custom-call(%part), custom_call_target="ConcatBitcast"
  ROOT %work = f32[2,10,32]{2,1,0:T(8,128)} convert(%same)
}
"""  # noqa: E501


def test_arrays_in_vector_memory_are_no_memory_traffic() -> None:
    module = parse_module(ON_CHIP)
    padded = 2 * 16 * 128
    assert memory_traffic(module) == padded * 2 + padded * 4
    elements = 2 * 10 * 32
    written = sum(execution_bytes(module, execution) for execution in module.executions)
    assert written == elements * (2 + 2) + elements * (2 + 4)


# A kernel with one array as three operands, and one in a fusion, whose backend config has several
# lines.
KERNELS = """HloModule kernels

%inside (x: bf16[8,128]) -> bf16[8,128] {
  %x = bf16[8,128]{1,0} parameter(0)
  ROOT %second = bf16[8,128]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", backend_config={"custom_call_config": {"body": "TUw=", "cost_estimate": {
"bytes_accessed":4096,
"flops":500,
"transcendentals":0
}, "serialization_format": 1}}
}

ENTRY %main (qkv: bf16[8,384]) -> bf16[8,128] {
  %qkv = bf16[8,384]{1,0} parameter(0)
  %first = bf16[8,128]{1,0} custom-call(%qkv, %qkv, %qkv), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"TUw=","cost_estimate":{"flops":"7000","bytes_accessed":"8192"}}}
  ROOT %last = bf16[8,128]{1,0} fusion(%first), kind=kCustom, calls=%inside
}
"""  # noqa: E501


def test_a_kernel_has_the_flops_of_its_cost_estimate_and_reads_an_array_once() -> None:
    module = parse_module(KERNELS)
    flops = {e.instruction.name: execution_flops(e) for e in module.executions}
    assert {name: n for name, n in flops.items() if n} == {"first": 7000.0, "second": 500.0}
    moved = {e.instruction.name: execution_bytes(module, e) for e in module.executions}
    assert moved["first"] == 2 * 8 * (384 + 128)
