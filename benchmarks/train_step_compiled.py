"""The training step of one chip by its compiler, and the parts of the model that move the bytes.

    python benchmarks/train_step_compiled.py [--topology v5e:1x1] [--variant base] [--kernels ...]

Nothing runs, and no TPU is needed, or no GPU with --topology h200:1; the compiler is: pip install
-e ".[tpu]", or pip install -e . "jax[cuda13]". A program takes minutes to compile. The recipe is
that of experiments/k400.py in bfloat16, on TPUs with every block rematerialised. --kernels selects
the programs: "none" has no kernels and tokens in raster order, "attention" has the attention
kernels, "all" (TPU only) has every kernel.

"Accessed" is the compiler's own count, which includes accesses to vector memory; for a GPU it is
counted by vswin_jax/analysis. "Moved" is the traffic between the chip and its memory, read from the
text of the program: the padded operands and results of each instruction that are not in vector
memory. The roofline time is computed from "moved".
"""

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from compiler_versions import compiler_versions
from json_files import write_json
from recipes import k400_config

from vswin_jax.analysis.compiled_program import read_program
from vswin_jax.analysis.dry_run import CompileTarget
from vswin_jax.analysis.gpu_topologies import is_gpu_topology
from vswin_jax.analysis.hlo_cost import execution_bytes, hbm_bytes
from vswin_jax.analysis.hlo_flops import CUBLAS
from vswin_jax.analysis.hlo_module import Execution, HloInstruction, HloModule
from vswin_jax.analysis.hlo_text import parse_module
from vswin_jax.analysis.topologies import topology_devices
from vswin_jax.runtime.progress import Progress
from vswin_jax.runtime.script_parser import writable_file

# A fusion of only these opcodes changes the location or the layout of values and computes nothing.
MOVE_OPCODES = {
    *("copy", "copy-start", "transpose", "reshape", "bitcast", "slice", "pad", "concatenate"),
    *("dynamic-slice", "dynamic-update-slice", "broadcast", "convert", "select", "compare"),
    *("parameter", "constant", "tuple", "get-tuple-element", "iota"),
}
PRODUCT_OPCODES = {"convolution", "dot"}
KERNEL_TARGETS = re.compile(r"tpu_custom_call|__cudnn\$fmha")

# Model settings for each value of --kernels.
NO_KERNELS = {"attention": "xla", "tokenwise": "xla", "token_order": "map"}
TPU_KERNELS = {
    "none": NO_KERNELS,
    "attention": {"attention": "pallas_tpu", "tokenwise": "xla"},
    "all": {"attention": "pallas_tpu", "tokenwise": "pallas_tpu"},
}
GPU_KERNELS = {"none": NO_KERNELS, "attention": {"attention": "gpu"}}

# Part of the model by the first of these keys that the instruction's op_name contains.
MODEL_PARTS = {
    "window_attention": "attention itself",
    "dot_product_attention": "attention itself",
    "norm_dense": "LayerNorm and qkv",
    "add_branches": "projection and MLP",
    "attn/qkv": "qkv product",
    "attn/proj": "output product",
    "attn": "attention's bias and reshapes",
    "mlp": "MLP",
    "norm": "LayerNorm",
    "blocks_": "windows, shifts, residuals",
    "downsample": "patch merging",
    "patch_embed": "patch embedding",
}
OTHER_PART = "the rest"


def instruction_kind(module: HloModule, instruction: HloInstruction) -> str:
    """Classify an instruction as "kernel" (one of ours), "product", "move" or "other"."""
    if instruction.opcode == "custom-call":
        if CUBLAS in instruction.attributes:
            return "product"
        return "kernel" if KERNEL_TARGETS.search(instruction.attributes) else "other"
    opcodes = set(_opcodes(module, instruction))
    if opcodes & PRODUCT_OPCODES:
        return "product"
    return "move" if opcodes <= MOVE_OPCODES | {"fusion"} else "other"


def _opcodes(module: HloModule, instruction: HloInstruction) -> Iterator[str]:
    """Yield the opcodes of an instruction and of the computation that it fuses."""
    yield instruction.opcode
    fused = module.computations.get(instruction.called_computation("calls") or "")
    for inner in fused.instructions.values() if fused else ():
        yield from _opcodes(module, inner)


def model_part(execution: Execution) -> str:
    """Return the part of the model that an instruction comes from."""
    op_name = re.search(r'op_name="([^"]*)"', execution.instruction.attributes)
    parts = (part for key, part in MODEL_PARTS.items() if op_name and key in op_name[1])
    return next(parts, OTHER_PART)


def moved_bytes(text: str) -> dict[tuple[str, str], float]:
    """Return the bytes moved by each (part of the model, kind), in descending order."""
    module = parse_module(text)
    counts: Counter[tuple[str, str]] = Counter()
    for execution in module.executions:
        moved = execution_bytes(module, execution, hbm_bytes) * execution.times
        if moved:
            kind = instruction_kind(module, execution.instruction)
            counts[model_part(execution), kind] += moved
    return dict(counts.most_common())


def kernel_settings(topology: str) -> dict[str, dict[str, Any]]:
    """Return the model settings of each value of --kernels that the topology supports."""
    return GPU_KERNELS if is_gpu_topology(topology) else TPU_KERNELS


def measure(variant: str, kernels: str, clips: int, topology: str) -> dict[str, Any]:
    """Compile the step for one chip and return its row."""
    model = kernel_settings(topology)[kernels] | {
        "remat": "none" if is_gpu_topology(topology) else "block",
        "dtype": "bfloat16",
    }
    settings = {f"model.{name}": value for name, value in model.items()}
    settings |= {"train.batch_size": clips, "train.grad_accum_steps": 1}
    config = k400_config(f"variant={variant}", settings)
    target = CompileTarget.from_config(config, topology_devices(topology)[:1])
    start = time.perf_counter()
    with jax.sharding.use_abstract_mesh(target.mesh.abstract_mesh):
        lowered = target.train_step.lower(target.state, target.batch(clips, views=1))
        compiled = lowered.compile()
    seconds, program = time.perf_counter() - start, read_program(compiled)
    chip = target.chip
    times = program.memory_traffic / chip.memory_bandwidth, program.flops / chip.flops
    return {
        "kernels": kernels,
        "bytes": program.bytes_accessed,
        "moved": program.memory_traffic,
        "flops": program.flops,
        "temporaries": program.memory.temporaries,
        "peak": program.memory.peak,
        "roofline_seconds": max(times),
        "compile_seconds": seconds,
        "by_place": [[*key, moved] for key, moved in moved_bytes(compiled.as_text()).items()],
    }


def table(row: dict[str, Any]) -> str:
    """Return the totals of a program and a line for each (part, kind) that moves bytes."""
    lines = [
        f"kernels of {row['kernels']}: {row['bytes'] / 1e9:.1f} GB accessed, "
        f"{row['moved'] / 1e9:.1f} GB moved, "
        f"{row['temporaries'] / 1e9:.2f} GB of temporaries, {row['flops'] / 1e12:.2f} TFLOP, "
        f"{row['roofline_seconds'] * 1e3:.0f} ms by the roofline, compiled in "
        f"{row['compile_seconds']:.0f} s"
    ]
    lines += [
        f"  {moved / 1e9:7.2f} GB  {part:30} {kind}"
        for part, kind, moved in row["by_place"]
        if moved > 1e7
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile the step with each set of kernels, print the tables and write the file of --json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variant", default="base")
    parser.add_argument(
        "--kernels", nargs="+", choices=TPU_KERNELS, help="default: all that the chip supports"
    )
    parser.add_argument("--topology", default="v5e:1x1", help="v5e:1x1, h200:1, ... (%(default)s)")
    parser.add_argument("--clips", type=int, default=8, help="batch size (%(default)s)")
    parser.add_argument("--json", type=writable_file, help="file of the results")
    options = parser.parse_args(arguments)
    names = options.kernels or list(kernel_settings(options.topology))
    progress = Progress(len(names), lambda line: print(line, file=sys.stderr), unit="programs")
    rows = []
    for name in names:
        rows.append(measure(options.variant, name, options.clips, options.topology))
        print(table(rows[-1]), flush=True)
        progress.add()
    report = {"variant": options.variant, "topology": options.topology, "clips": options.clips}
    report |= compiler_versions(options.topology) | {"rows": rows}
    write_json(options.json, report, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
