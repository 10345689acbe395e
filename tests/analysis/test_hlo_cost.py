"""Counting loops: beside XLA's own count, and on hand-made convolutions."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from vswin_jax.analysis.compiled_program import read_program
from vswin_jax.analysis.hlo_cost import flops, loop_factors, memory_traffic, totals, traffic
from vswin_jax.analysis.hlo_text import parse_module

TPU_PROGRAM = Path(__file__).parents[1] / "data" / "tpu_program.txt"


def compiled(layers: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.stages.Compiled:
    """The gradient of layers of a matrix product, x float32 [64, 128], w [layers, 128, 128]."""

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


def test_a_loop_costs_what_its_trips_cost_one_by_one() -> None:
    loop, flat = read_program(compiled(scanned)), read_program(compiled(unrolled))
    assert loop.flops == pytest.approx(flat.flops, rel=0.1)
    # 6 layers of 3 products, less the gradient of x that nobody asks for, each 2 * 64 * 128 * 128.
    assert flat.flops == pytest.approx(17 * 2 * 64 * 128 * 128, rel=0.02)
    # A loop also moves its slices in and out.
    assert 1.0 <= loop.bytes_accessed / flat.bytes_accessed < 2.0


@pytest.mark.parametrize("layers", [scanned, unrolled])
def test_without_trips_the_count_is_nearly_that_of_xla(
    layers: Callable[[jax.Array, jax.Array], jax.Array],
) -> None:
    program = compiled(layers)
    module, cost = parse_module(program.as_text()), program.cost_analysis()
    # XLA counts the additions and tanh of the products' outputs as well.
    assert sum(map(flops, module.executions)) == pytest.approx(cost["flops"], rel=0.05)
    moved = sum(traffic(module, execution) for execution in module.executions)
    assert moved == pytest.approx(cost["bytes accessed"], rel=0.05)


def test_a_program_without_loops_has_no_factors() -> None:
    assert loop_factors(parse_module(compiled(unrolled).as_text())) == (1.0, 1.0)


def test_the_arithmetic_of_a_tpu_program() -> None:
    module = parse_module(TPU_PROGRAM.read_text())
    counted = [(execution.times, flops(execution)) for execution in module.executions]
    product = 2 * 256 * 512 * 512
    # The loops' product forward and two backward, and a product by itself.
    assert sorted(pair for pair in counted if pair[1]) == [(1, product)] + [(5, product)] * 3
    assert loop_factors(module)[0] == 4.0


@pytest.mark.parametrize(
    ("window", "data", "kernel", "result", "places"),
    [
        ("size=3 pad=1_1", 5, 3, 5, 3 * 5 - 2),
        ("size=2 stride=2", 6, 2, 3, 6),
        # A batch of four products as TPUs write it: each place of the result meets one of data.
        ("size=4 stride=3 pad=3_3 lhs_dilate=4", 4, 4, 4, 4),
        ("size=2 rhs_dilate=2", 5, 2, 3, 6),
    ],
)
def test_only_the_window_that_lies_on_data_counts(
    window: str, data: int, kernel: int, result: int, places: int
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
    assert sum(map(flops, module.executions)) == 2 * 2 * 7 * 3 * places


@pytest.mark.parametrize(("target", "products"), [("Softmax", 2), ("SoftmaxBackward", 5)])
def test_attention_of_cudnn_is_its_products(target: str, products: int) -> None:
    call = f'custom_call_target="__cudnn$fmhaScaleBias{target}"'
    text = f"""HloModule m

ENTRY %main (q: bf16[4,6,2,8], k: bf16[4,6,2,8]) -> bf16[4,2,6,8] {{
  %q = bf16[4,6,2,8]{{3,2,1,0}} parameter(0)
  %k = bf16[4,6,2,8]{{3,2,1,0}} parameter(1)
  ROOT %c = bf16[4,2,6,8]{{3,1,2,0}} custom-call(%q, %k), {call}
}}
"""
    assert totals(parse_module(text)) == (products * 2 * (4 * 2) * 6 * 6 * 8, 3 * 2 * 4 * 6 * 2 * 8)


def test_a_product_of_cublas_without_its_workspace() -> None:
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
    assert totals(parse_module(text)) == (2 * 8 * 5 * 6, moved)


def test_of_a_sliced_array_only_the_slice_is_read() -> None:
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
    moved = {e.instruction.name: traffic(module, e) for e in module.executions if not e.fused}
    # The slice's 16 bytes are read and written, with an index of 4; then the update's, with two.
    assert (moved["f"], moved["d"]) == (36.0, 40.0)


# As TPU programs write it: a quarter of x is fetched into vector memory, where `work` is done with
# it; heads of 32 channels are padded to 128 lanes, and 10 rows to 16.
ON_CHIP = """HloModule on_chip

ENTRY %main (x: bf16[8,10,32]) -> f32[2,10,32] {
  %x = bf16[8,10,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %go = ((bf16[8,10,32]{2,1,0:T(8,128)(2,1)}), bf16[2,10,32]{2,1,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:2], [0:10], [0:32]}
  %part = bf16[2,10,32]{2,1,0:T(8,128)(2,1)S(1)} slice-done(%go)
  %same = bf16[2,10,32]{2,1,0:T(8,128)(2,1)S(1)} custom-call(%part), custom_call_target="ConcatBitcast"
  ROOT %work = f32[2,10,32]{2,1,0:T(8,128)} convert(%same)
}
"""  # noqa: E501


def test_what_stays_on_the_chip_is_no_memory_traffic() -> None:
    module = parse_module(ON_CHIP)
    padded = 2 * 16 * 128
    assert memory_traffic(module) == padded * 2 + padded * 4
    elements = 2 * 10 * 32
    written = sum(traffic(module, execution) for execution in module.executions)
    assert written == elements * (2 + 2) + elements * (2 + 4)


# A kernel that gets one array three times, and one in a fusion, whose options take several lines.
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


def test_a_kernel_says_its_arithmetic_and_reads_an_array_once() -> None:
    module = parse_module(KERNELS)
    counted = {e.instruction.name: flops(e) for e in module.executions if flops(e)}
    assert counted == {"first": 7000.0, "second": 500.0}
    moved = {e.instruction.name: traffic(module, e) for e in module.executions}
    assert moved["first"] == 2 * 8 * (384 + 128)
