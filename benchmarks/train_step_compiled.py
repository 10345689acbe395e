"""The training step of one chip by its compiler, and where its bytes go.

    pip install -e ".[tpu]"; or pip install -e . "jax[cuda13]"
    python benchmarks/train_step_compiled.py [--topology v5e:1x1] [--variant base] [--kernels ...]

No TPU, and no GPU with --topology h200:1, is needed and nothing runs; a program takes the compiler
minutes. The recipe is that of experiments/k400.py in bfloat16, on TPUs with every block
rematerialised: without kernels, tokens in the map's order; with those of attention; on a TPU with
all of them too. "Accessed" is the compiler's own count, which has what stays on the chip too; for a
GPU it is ours.
"Moved" is what goes between the chip and its memory, read off the program's text: the operands and
results of each instruction, with their padding, unless they lie in vector memory. The roofline is
of that.
"""

import argparse
import json
import re
import runpy
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from compilers import versions

from vswin_jax.analysis.compiled_program import read_program
from vswin_jax.analysis.dry_run import Subject
from vswin_jax.analysis.gpu_boxes import is_box
from vswin_jax.analysis.hlo_cost import CUBLAS, in_memory, traffic
from vswin_jax.analysis.hlo_text import Execution, Instruction, Module, parse_module
from vswin_jax.analysis.topologies import topology_devices
from vswin_jax.runtime.atomic_write import whole_file
from vswin_jax.runtime.progress import Progress

RECIPES = Path(__file__).parents[1] / "experiments" / "k400.py"

# A fusion of these alone changes where values lie, or how they are written, but computes nothing.
MOVES = {
    *("copy", "copy-start", "transpose", "reshape", "bitcast", "slice", "pad", "concatenate"),
    *("dynamic-slice", "dynamic-update-slice", "broadcast", "convert", "select", "compare"),
    *("parameter", "constant", "tuple", "get-tuple-element", "iota"),
}
PRODUCTS = {"convolution", "dot"}
KERNEL = re.compile(r"tpu_custom_call|__cudnn\$fmha")

PLAIN = {"attention": "xla", "tokenwise": "xla", "token_order": "map"}
ON_TPU = {
    "none": PLAIN,
    "attention": {"attention": "pallas_tpu", "tokenwise": "xla"},
    "all": {"attention": "pallas_tpu", "tokenwise": "pallas_tpu"},
}
ON_GPU = {"none": PLAIN, "attention": {"attention": "gpu"}}

# What an instruction belongs to, by the first of these in its name; the rest is around the blocks.
PLACES = {
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


def kind(module: Module, instruction: Instruction) -> str:
    """What an instruction does: a kernel of ours, a matrix product, moving, or anything else."""
    if instruction.opcode == "custom-call":
        if CUBLAS in instruction.attributes:
            return "product"
        return "kernel" if KERNEL.search(instruction.attributes) else "other"
    opcodes = set(_opcodes(module, instruction))
    if opcodes & PRODUCTS:
        return "product"
    return "move" if opcodes <= MOVES | {"fusion"} else "other"


def _opcodes(module: Module, instruction: Instruction) -> Iterator[str]:
    yield instruction.opcode
    inside = module.computations.get(instruction.called("calls") or "")
    for inner in inside.instructions.values() if inside else ():
        yield from _opcodes(module, inner)


def place(execution: Execution) -> str:
    """Where in the model an instruction comes from."""
    name = re.search(r'op_name="([^"]*)"', execution.instruction.attributes)
    found = (label for part, label in PLACES.items() if name and part in name[1])
    return next(found, "the rest")


def moved_by_place(text: str) -> dict[tuple[str, str], float]:
    """The bytes that each (place, kind) moves, the most first."""
    module = parse_module(text)
    counts: Counter[tuple[str, str]] = Counter()
    for execution in module.executions:
        moved = traffic(module, execution, in_memory) * execution.times
        if moved:
            counts[place(execution), kind(module, execution.instruction)] += moved
    return dict(counts.most_common())


def choices(topology: str) -> dict[str, dict[str, Any]]:
    """What the model is told to use, by the name of the kernels."""
    return ON_GPU if is_box(topology) else ON_TPU


def measure(variant: str, kernels: str, clips: int, topology: str) -> dict[str, Any]:
    """Compiles the step for one chip."""
    config = runpy.run_path(str(RECIPES))["get_config"](f"variant={variant}")
    remat = "none" if is_box(topology) else "block"
    config.model.update(choices(topology)[kernels], remat=remat, dtype="bfloat16")
    config.train.update(batch_size=clips, accumulate=1)
    subject = Subject.of(config, topology_devices(topology)[:1])
    begin = time.perf_counter()
    with jax.sharding.use_abstract_mesh(subject.mesh.abstract_mesh):
        lowered = subject.train_step.lower(subject.state, subject.batch(clips, views=1))
        compiled = lowered.compile()
    seconds, program = time.perf_counter() - begin, read_program(compiled)
    chip = subject.chip
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
        "by_place": [[*key, moved] for key, moved in moved_by_place(compiled.as_text()).items()],
    }


def table(row: dict[str, Any]) -> str:
    """One program, and what moves in it by place and kind, the most first."""
    lines = [
        f"kernels of {row['kernels']}: {row['bytes'] / 1e9:.1f} GB accessed, "
        f"{row['moved'] / 1e9:.1f} GB moved, "
        f"{row['temporaries'] / 1e9:.2f} GB of temporaries, {row['flops'] / 1e12:.2f} TFLOP, "
        f"{row['roofline_seconds'] * 1e3:.0f} ms by the roofline, compiled in "
        f"{row['compile_seconds']:.0f} s"
    ]
    lines += [
        f"  {moved / 1e9:7.2f} GB  {where:30} {what}"
        for where, what, moved in row["by_place"]
        if moved > 1e7
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles with each set of kernels; prints the tables and writes them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variant", default="base")
    parser.add_argument("--kernels", nargs="+", choices=ON_TPU, help="all that the chip has")
    parser.add_argument("--topology", default="v5e:1x1")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    all_kernels = options.kernels or list(choices(options.topology))
    progress = Progress(
        len(all_kernels), lambda line: print(line, file=sys.stderr), things="programs"
    )
    rows = []
    for kernels in all_kernels:
        rows.append(measure(options.variant, kernels, options.clips, options.topology))
        print(table(rows[-1]), flush=True)
        progress.add()
    if options.json:
        report = {"variant": options.variant, "topology": options.topology, "clips": options.clips}
        report |= versions(options.topology) | {"rows": rows}
        with whole_file(options.json) as path:
            path.write_text(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
