"""The analysis of compiled programs: of 8 CPU devices, and from the text of a TPU program."""

import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cheap_programs import device_environment

from vswin_jax.analysis.compiled_program import (
    Collective,
    CompiledProgram,
    MemoryStats,
    find_collectives,
)
from vswin_jax.analysis.hlo_module import HloArray
from vswin_jax.analysis.hlo_text import parse_module

TPU_PROGRAM = Path(__file__).parents[1] / "data" / "tpu_program.txt"


PROGRAMS = """
import pickle, sys
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from vswin_jax.analysis.compiled_program import read_program

mesh = jax.make_mesh((2, 4), ("data", "fsdp"), (AxisType.Auto,) * 2)
rows, both = P("fsdp"), P(("data", "fsdp"))

def read(function, *specs):
    *arguments, result = (NamedSharding(mesh, spec) for spec in specs)
    shapes = [jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=where) for where in arguments]
    return read_program(jax.jit(function, out_shardings=result).lower(*shapes).compile())

def mapped(function, inside, outside):
    return jax.shard_map(function, mesh=mesh, in_specs=inside, out_specs=outside)

def shift(x):
    return jax.lax.ppermute(x, "fsdp", [(chip, (chip + 1) % 4) for chip in range(4)])

def scatter(x):
    return jax.lax.psum_scatter(x, "fsdp", scatter_dimension=0, tiled=True)

def sums_in_a_loop(x):
    def one(total, scale):
        # The summed values depend on the trip, so XLA cannot move the sum out of the loop.
        return jnp.sin(total + jnp.sin(x * scale).sum() * total), None
    return jax.lax.scan(one, jnp.float32(1), jnp.arange(5, dtype=jnp.float32))[0]

def until_small(x):
    return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x)

pickle.dump({
    "sum": read(lambda x: x.sum(axis=0), both, P()),
    "gather": read(lambda x: x * 2, rows, P()),
    "turn": read(lambda x: x * 2, rows, P(None, "fsdp")),
    "shift": read(mapped(shift, rows, rows), rows, rows),
    "scatter": read(mapped(scatter, P("data"), both), P("data"), both),
    "loop": read(sums_in_a_loop, both, P()),
    "while": read(until_small, both, both),
    "product": read(lambda x, w: x @ w.T, both, P(), both),
}, sys.stdout.buffer)
"""


@pytest.fixture(scope="module")
def programs() -> dict[str, CompiledProgram]:
    """Compile small programs in a process with 8 CPU devices."""
    environment = device_environment(8)
    result = subprocess.run([sys.executable, "-c", PROGRAMS], capture_output=True, env=environment)
    assert result.returncode == 0, result.stderr.decode()[-2000:]
    return pickle.loads(result.stdout)


def described(collectives: Sequence[Collective]) -> list[tuple[Any, ...]]:
    return [
        (
            found.kind,
            " ".join(map(str, found.operands)),
            " ".join(map(str, found.results)),
            found.group_size,
            found.times,
            found.wire_bytes,
        )
        for found in collectives
    ]


Programs = dict[str, CompiledProgram]


def test_an_all_reduce_sends_nearly_twice_its_data(programs: Programs) -> None:
    program = programs["sum"]
    # 32 floats, 128 bytes; a ring of 8 sends 2 * 7/8 of them.
    assert described(program.collectives) == [("all-reduce", "f32[32]", "f32[32]", 8, 1, 224.0)]
    assert program.wire_bytes == 224.0
    assert program.devices == 8


def test_an_all_gather_over_one_axis_sends_the_other_shards(programs: Programs) -> None:
    # [16, 32] floats are 2048 bytes; each of 4 devices sends 3 such shards.
    expected = [("all-gather", "f32[16,32]", "f32[64,32]", 4, 1, 3 * 2048.0)]
    assert described(programs["gather"].collectives) == expected


def test_a_change_of_sharding_is_an_all_to_all(programs: Programs) -> None:
    (found,) = programs["turn"].collectives
    # Three of the four quarters of [16, 32] floats are sent to other devices.
    assert (found.kind, found.group_size, found.wire_bytes) == ("all-to-all", 4, 0.75 * 2048)


def test_a_collective_permute_sends_its_data_once(programs: Programs) -> None:
    assert described(programs["shift"].collectives) == [
        ("collective-permute", "f32[16,32]", "f32[16,32]", 8, 1, 2048.0)
    ]


def test_a_scattered_sum_is_a_reduce_scatter(programs: Programs) -> None:
    # Of [32, 32] floats, 4096 bytes, each device keeps the sum of a quarter and sends the rest.
    assert described(programs["scatter"].collectives) == [
        ("reduce-scatter", "f32[32,32]", "f32[8,32]", 4, 1, 0.75 * 4096)
    ]


def test_a_collective_in_a_loop_is_multiplied_by_the_trip_count(programs: Programs) -> None:
    assert described(programs["loop"].collectives) == [
        ("all-reduce", "f32[]", "f32[]", 8, 5, 5 * 2 * 7 / 8 * 4)
    ]
    assert programs["loop"].by_kind() == {"all-reduce": (5, 35.0)}


def test_a_loop_of_unknown_trip_count_counts_once_and_is_marked(programs: Programs) -> None:
    in_loop = [found for found in programs["while"].collectives if not found.trip_count_known]
    # The condition sums over the devices, before the first trip and after each.
    assert [(found.kind, found.times) for found in in_loop] == [("all-reduce", 2)]


def test_memory_and_flops_of_a_matrix_product(programs: Programs) -> None:
    program = programs["product"]
    # The arguments are [8, 32] and [64, 32] floats, the output is [8, 64]: 2 * 8 * 64 * 32 FLOPs.
    assert program.memory.arguments == 4 * (8 * 32 + 64 * 32)
    assert program.memory.outputs == 4 * 8 * 64
    assert program.flops == 2 * 8 * 64 * 32
    assert program.bytes_accessed >= program.memory.arguments + program.memory.outputs
    assert program.collectives == ()


def test_donated_memory_counts_once() -> None:
    memory = MemoryStats(arguments=100, outputs=80, aliased=70, temporaries=30, code=5)
    assert memory.peak == 145


def test_every_form_of_collective_in_a_tpu_program() -> None:
    module = parse_module(TPU_PROGRAM.read_text())
    assert module.partitions == 4
    assert sorted(described(find_collectives(module))) == [
        # The loop has three collectives. The reduce-scatter of gradients is a fusion; the gather
        # before it is asynchronous and appears in several fusions.
        ("all-gather", "bf16[128,512]", "bf16[512,512]", 4, 1, 3 * 2**17),
        ("all-gather", "bf16[128,512]", "bf16[512,512]", 4, 5, 5 * 3 * 2**17),
        ("all-gather", "bf16[128,512]", "bf16[512,512]", 4, 5, 5 * 3 * 2**17),
        ("all-reduce", "f32[] f32[]", "f32[] f32[]", 4, 1, 2 * 3 / 4 * 8),
        ("all-to-all", "bf16[256,4,128]", "bf16[256,4,128]", 4, 1, 3 / 4 * 2**18),
        ("collective-permute", "bf16[256,512]", "bf16[256,512]", 4, 1, 2**18),
        ("reduce-scatter", "bf16[512,512]", "bf16[128,512]", 4, 5, 5 * 3 / 4 * 2**19),
    ]


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1,2},{3,4,5}}", 3),
        ("replica_groups={}", 8),
        ("replica_groups=[4,2]<=[8]", 2),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", 4),
        ("replica_groups=mesh['x'=2,'y'=4] {'y'}", 4),
        ("replica_groups=mesh['x'=2,'y'=4] {'x','y'}", 8),
        ("replica_groups=mesh['x'=1,'y'=4,'z'=2], device_ids=([2,4]T(1,0)) {'y'}", 4),
        ("replica_groups=mesh['x'=8] {'x':(2)4}", 4),
    ],
)
def test_every_form_of_replica_groups(groups: str, size: int) -> None:
    text = f"""HloModule m, num_partitions=8

ENTRY %main (p: f32[4]) -> f32[4] {{
  %p = f32[4]{{0}} parameter(0)
  ROOT %r = f32[4]{{0}} all-reduce(%p), channel_id=1, {groups}, to_apply=%add
}}
"""
    (found,) = find_collectives(parse_module(text))
    assert found.group_size == size


def test_a_start_and_done_pair_is_one_collective() -> None:
    text = """HloModule m, num_partitions=4

%wrapped (q: bf16[8]) -> bf16[2] {
  %q = bf16[8]{0} parameter(0)
  ROOT %rs = bf16[2]{0} reduce-scatter(%q), replica_groups={{0,1,2,3}}, dimensions={0}
}

ENTRY %main (p: bf16[8]) -> bf16[32] {
  %p = bf16[8]{0} parameter(0)
  %s = ((bf16[8]{0}), bf16[2]{0}, u32[]) async-start(%p), calls=%wrapped
  %d = bf16[2]{0} async-done(%s)
  %gs = (bf16[8]{0}, bf16[32]{0}) all-gather-start(%p), replica_groups=[1,4]<=[4], dimensions={0}
  ROOT %gd = bf16[32]{0} all-gather-done(%gs)
}
"""
    assert described(find_collectives(parse_module(text))) == [
        ("reduce-scatter", "bf16[8]", "bf16[2]", 4, 1, 12.0),
        ("all-gather", "bf16[8]", "bf16[32]", 4, 1, 48),
    ]


def test_bytes_of_unusual_element_types() -> None:
    assert [HloArray(dtype, (3,)).bytes for dtype in ("pred", "s4", "f8e4m3fn", "c64")] == [
        3,
        2,
        3,
        24,
    ]


def test_text_without_an_entry_computation_is_rejected() -> None:
    with pytest.raises(ValueError, match="no ENTRY computation"):
        parse_module("HloModule m")
