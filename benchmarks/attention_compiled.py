"""Attention of the first stage by each implementation, by the chip's compiler: bytes, temporaries.

    pip install -e ".[tpu]"; or pip install -e . "jax[cuda13]"
    python benchmarks/attention_compiled.py [--topology v5e:1x1] [--clips 8] [--json out.json]

No TPU, and no GPU with --topology h200:1, is needed and nothing runs. The windows are the shifted
ones of clips of 32x224x224 in bfloat16; the operands are the packed projection, the bias
[heads, N, N] and the region ids. Bytes are those that the compiler counts in HBM, loops as often as
they run, for a GPU those that we count; a kernel of ours says what it moves. The roofline time is
the longer of bytes over bandwidth and operations over peak.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from compilers import versions
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vswin_jax.analysis.compiled_program import read_program
from vswin_jax.analysis.gpu_boxes import is_box
from vswin_jax.analysis.topologies import topology_devices
from vswin_jax.attention import WindowGeometry, window_attention
from vswin_jax.runtime.atomic_write import whole_file
from vswin_jax.runtime.hardware import chip_of
from vswin_jax.runtime.progress import Progress

HEADS = {"swin_tiny": 3, "swin_base": 4}
DIM = 32
ON_TPU, ON_GPU = ("xla", "chunked", "pallas_tpu"), ("xla", "chunked", "gpu")
GEOMETRY = WindowGeometry.create((16, 56, 56), (8, 7, 7), (4, 3, 3))


@dataclass(frozen=True)
class Case:
    """One program: what attends, with what, and whether gradients are taken too."""

    model: str
    implementation: str
    backward: bool


def function(case: Case) -> Callable[..., Any]:
    """Attention of (qkv, bias, gradient of the result): its result, and both gradients if asked."""

    def attend(qkv: jax.Array, bias: jax.Array) -> jax.Array:
        heads = qkv.reshape(*qkv.shape[:3], 3, HEADS[case.model], DIM)
        out = window_attention(heads, bias, GEOMETRY.region_ids, implementation=case.implementation)
        return out.reshape(*qkv.shape[:3], -1)

    def forward_and_backward(qkv: jax.Array, bias: jax.Array, grad: jax.Array) -> Any:
        out, pull_back = jax.vjp(attend, qkv, bias)
        return out, pull_back(grad)

    return forward_and_backward if case.backward else attend


def measure(case: Case, clips: int, topology: str) -> dict[str, Any]:
    """Compiles a case for one chip of the topology."""
    device = topology_devices(topology)[0]
    mesh = Mesh([device], ("data",), axis_types=(AxisType.Auto,))
    place = NamedSharding(mesh, PartitionSpec())

    def array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    heads, tokens = HEADS[case.model], GEOMETRY.tokens
    tokens_of = (clips, GEOMETRY.num_windows, tokens)
    operands = [
        array(*tokens_of, 3 * heads * DIM),
        array(heads, tokens, tokens, dtype=jnp.float32),
    ]
    operands += [array(*tokens_of, heads * DIM)] if case.backward else []
    begin = time.perf_counter()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        program = read_program(jax.jit(function(case)).lower(*operands).compile())
    chip = chip_of(device.device_kind)
    times = program.bytes_accessed / chip.memory_bandwidth, program.flops / chip.flops
    return {
        "model": case.model,
        "implementation": case.implementation,
        "backward": case.backward,
        "bytes": program.bytes_accessed,
        "flops": program.flops,
        "temporaries": program.memory.temporaries,
        "roofline_seconds": max(times),
        "compile_seconds": time.perf_counter() - begin,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in columns, each with the ratio of its bytes to those of `xla`."""
    lines = [
        f"{'model':10} {'attention':11} {'pass':17} {'MB accessed':>11} {'of xla':>7} "
        f"{'MB temporary':>12} {'roofline ms':>11}"
    ]
    for row in rows:
        same = (row["model"], row["backward"])
        xla = next(
            other["bytes"]
            for other in rows
            if (other["model"], other["backward"]) == same and other["implementation"] == "xla"
        )
        both = "forward, backward" if row["backward"] else "forward"
        lines.append(
            f"{row['model']:10} {row['implementation']:11} {both:17} {row['bytes'] / 1e6:11,.0f} "
            f"{'1/' + format(xla / row['bytes'], '.1f'):>7} {row['temporaries'] / 1e6:12,.0f} "
            f"{row['roofline_seconds'] * 1e3:11.2f}"
        )
    return "\n".join(lines)


def main() -> int:
    """Compiles every case; prints the table and writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--topology", default="v5e:1x1")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases = [
        Case(model, implementation, backward)
        for model in HEADS
        for backward in (False, True)
        for implementation in (ON_GPU if is_box(options.topology) else ON_TPU)
    ]
    progress = Progress(len(cases), lambda line: print(line, file=sys.stderr), things="programs")
    rows = []
    for case in cases:
        rows.append(measure(case, options.clips, options.topology))
        progress.add()
    print(table(rows))
    if options.json:
        report = {"topology": options.topology, "clips": options.clips, "rows": rows}
        report |= versions(options.topology)
        with whole_file(options.json) as path:
            path.write_text(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
