"""First-stage attention of each implementation by the chip's compiler: bytes and temporaries.

    python benchmarks/attention_compiled.py [--topology v5e:1x1] [--clips 8] [--json out.json]

Nothing runs, and no TPU is needed, or no GPU with --topology h200:1; the compiler is: pip install
-e ".[tpu]", or pip install -e . "jax[cuda13]". The windows are the shifted ones of clips of
32x224x224 in bfloat16; the operands are the packed projection, the bias [heads, N, N] and the
segment ids. For a TPU the bytes are the compiler's count of HBM accesses, with loop bodies counted
as often as they run; for a GPU they are counted by vswin_jax/analysis. For our kernels the count is
the one that each kernel declares. The roofline time is the longer of bytes over bandwidth and
operations over peak.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from compiler_versions import compiler_versions
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from json_files import write_json

from vswin_jax.analysis.compiled_program import read_program
from vswin_jax.analysis.gpu_topologies import is_gpu_topology
from vswin_jax.analysis.topologies import topology_devices
from vswin_jax.attention import WindowGeometry, window_attention
from vswin_jax.runtime.hardware import chip_of
from vswin_jax.runtime.progress import Progress
from vswin_jax.runtime.script_parser import writable_file

HEADS = {"swin_tiny": 3, "swin_base": 4}
HEAD_DIM = 32
TPU_IMPLEMENTATIONS = ("xla", "chunked", "pallas_tpu")
GPU_IMPLEMENTATIONS = ("xla", "chunked", "gpu")
GEOMETRY = WindowGeometry.create((16, 56, 56), (8, 7, 7), (4, 3, 3))


@dataclass(frozen=True)
class Case:
    """One program: the model's size, the implementation, and True if gradients are included."""

    model: str
    implementation: str
    backward: bool


def attention_function(case: Case) -> Callable[..., Any]:
    """Return a function of (qkv, bias), or of (qkv, bias, output gradient) with gradients."""

    def attend(qkv: jax.Array, bias: jax.Array) -> jax.Array:
        heads = qkv.reshape(*qkv.shape[:3], 3, HEADS[case.model], HEAD_DIM)
        out = window_attention(
            heads, bias, GEOMETRY.segment_ids, implementation=case.implementation
        )
        return out.reshape(*qkv.shape[:3], -1)

    def forward_and_backward(qkv: jax.Array, bias: jax.Array, output_grad: jax.Array) -> Any:
        out, vjp = jax.vjp(attend, qkv, bias)
        return out, vjp(output_grad)

    return forward_and_backward if case.backward else attend


def abstract_operands(
    case: Case, clips: int, sharding: NamedSharding
) -> list[jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of the operands of `attention_function(case)`."""
    heads, tokens = HEADS[case.model], GEOMETRY.tokens

    def array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    qkv = array(clips, GEOMETRY.num_windows, tokens, 3 * heads * HEAD_DIM)
    bias = array(heads, tokens, tokens, dtype=jnp.float32)
    output_grad = array(clips, GEOMETRY.num_windows, tokens, heads * HEAD_DIM)
    return [qkv, bias, output_grad] if case.backward else [qkv, bias]


def measure(case: Case, clips: int, topology: str) -> dict[str, Any]:
    """Compile a case for one chip of the topology and return its row."""
    device = topology_devices(topology)[0]
    mesh = Mesh([device], ("data",), axis_types=(AxisType.Auto,))
    operands = abstract_operands(case, clips, NamedSharding(mesh, PartitionSpec()))
    start = time.perf_counter()
    # Implementations and kernels are chosen for the platform of the mesh that is set.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        program = read_program(jax.jit(attention_function(case)).lower(*operands).compile())
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
        "compile_seconds": time.perf_counter() - start,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows in columns, each with the ratio of its bytes to those of `xla`."""
    xla = {
        (row["model"], row["backward"]): row["bytes"]
        for row in rows
        if row["implementation"] == "xla"
    }
    lines = [
        f"{'model':10} {'attention':11} {'pass':17} {'MB accessed':>11} {'of xla':>7} "
        f"{'MB temporary':>12} {'roofline ms':>11}"
    ]
    for row in rows:
        ratio = xla[row["model"], row["backward"]] / row["bytes"]
        direction = "forward, backward" if row["backward"] else "forward"
        lines.append(
            f"{row['model']:10} {row['implementation']:11} {direction:17} "
            f"{row['bytes'] / 1e6:11,.0f} {'1/' + format(ratio, '.1f'):>7} "
            f"{row['temporaries'] / 1e6:12,.0f} {row['roofline_seconds'] * 1e3:11.2f}"
        )
    return "\n".join(lines)


def main() -> int:
    """Compile every case, print the table and write it to the file of --json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--topology", default="v5e:1x1", help="v5e:1x1, h200:1, ... (%(default)s)")
    parser.add_argument("--clips", type=int, default=8, help="batch size (%(default)s)")
    parser.add_argument("--json", type=writable_file, help="file of the results")
    options = parser.parse_args()
    on_gpu = is_gpu_topology(options.topology)
    cases = [
        Case(model, implementation, backward)
        for model in HEADS
        for backward in (False, True)
        for implementation in (GPU_IMPLEMENTATIONS if on_gpu else TPU_IMPLEMENTATIONS)
    ]
    progress = Progress(len(cases), lambda line: print(line, file=sys.stderr), unit="programs")
    rows = []
    for case in cases:
        rows.append(measure(case, options.clips, options.topology))
        progress.add()
    print(table(rows))
    report = {"topology": options.topology, "clips": options.clips, "rows": rows}
    write_json(options.json, report | compiler_versions(options.topology), indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
