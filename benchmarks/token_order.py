"""Effect of the order of tokens between blocks on the compiled training step.

    python benchmarks/token_order.py [--platform cpu v5e:1x1] [--variant tiny] [--json out.json]

Each row is a training step of experiments/k400.py in bfloat16, compiled and not run: of a model of
the first stage alone, or of the whole model. "map" is raster order, as in the reference; "windows"
is window order. Operations inside fusions are counted too, those in loops as often as they run. A
TPU program needs the TPU compiler (pip install -e ".[tpu]") and takes minutes. Compile time is CPU
time over all cores, because elapsed time depends on what else runs.
"""

import argparse
import itertools
import resource
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import jax
from json_files import write_json
from recipes import k400_config

from vswin_jax.analysis.compiled_program import read_program
from vswin_jax.analysis.dry_run import CompileTarget
from vswin_jax.analysis.hlo_module import HloModule
from vswin_jax.analysis.hlo_text import parse_module
from vswin_jax.analysis.topologies import topology_devices
from vswin_jax.runtime.progress import Progress
from vswin_jax.runtime.script_parser import writable_file

COUNTED_OPCODES = ("gather", "scatter", "copy", "transpose", "slice", "concatenate", "pad")
TOKEN_ORDERS = ("map", "windows")
FIRST_STAGE_HEADS = {"tiny": 3, "small": 3, "base": 4, "large": 6}


def compile_target(
    options: argparse.Namespace, platform: str, first_stage_only: bool, token_order: str
) -> CompileTarget:
    """Build the training step of a row."""
    settings = {
        "model.token_order": token_order,
        "model.dtype": "bfloat16",
        "model.remat": options.remat,
        "model.attention": options.attention,
        "train.batch_size": options.clips,
        "train.grad_accum_steps": 1,
    }
    if first_stage_only:
        settings |= {
            "model.depths": (2,),
            "model.num_heads": (FIRST_STAGE_HEADS[options.variant],),
        }
    config = k400_config(f"variant={options.variant}", settings)
    devices = jax.devices("cpu") if platform == "cpu" else topology_devices(platform)
    return CompileTarget.from_config(config, devices[:1])


def count_operations(module: HloModule) -> dict[str, int]:
    """Count the executions of each of `COUNTED_OPCODES`; asynchronous copies count as copies."""
    counts: Counter[str] = Counter()
    for execution in module.executions:
        counts[execution.instruction.opcode.removesuffix("-start")] += execution.times
    return {name: counts[name] for name in COUNTED_OPCODES}


def largest_constant(module: HloModule) -> int:
    """Return the bytes of the largest constant of the program."""
    instructions = (execution.instruction for execution in module.executions)
    return max(
        (sum(array.bytes for array in i.results) for i in instructions if i.opcode == "constant"),
        default=0,
    )


def measure(target: CompileTarget, clips: int) -> dict[str, Any]:
    """Compile the step and return the measured columns of its row."""
    with jax.sharding.use_abstract_mesh(target.mesh.abstract_mesh):
        start = _cpu_seconds()
        lowered = target.train_step.lower(target.state, target.batch(clips, views=1))
        traced = _cpu_seconds()
        compiled = lowered.compile()
        finished = _cpu_seconds()
    program, module = read_program(compiled), parse_module(compiled.as_text())
    return {
        **count_operations(module),
        "bytes": program.bytes_accessed,
        "temporaries": program.memory.temporaries,
        "largest_constant": largest_constant(module),
        "trace_seconds": traced - start,
        "compile_seconds": finished - traced,
    }


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return all rows as Markdown."""
    header = ("platform", "model", "order", *COUNTED_OPCODES, "accessed", "temporaries")
    header += ("largest constant", "traced", "compiled")
    lines = [header, ("---",) * len(header), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    cells = [row["platform"], row["model"], row["order"]]
    cells += [str(row[name]) for name in COUNTED_OPCODES]
    cells += [f"{row[name] / 1e9:.2f} GB" for name in ("bytes", "temporaries")]
    cells += [f"{row['largest_constant'] / 1e3:.0f} kB"]
    return cells + [f"{row[name]:.0f} s" for name in ("trace_seconds", "compile_seconds")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile all rows, print the table and write it to the file of --json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--platform", nargs="+", default=["cpu", "v5e:1x1"])
    parser.add_argument("--variant", default="tiny", choices=FIRST_STAGE_HEADS)
    parser.add_argument("--model", nargs="+", default=["stage", "whole"])
    parser.add_argument("--attention", default="xla")
    parser.add_argument("--remat", default="block")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--json", type=writable_file, help="file of the results")
    options = parser.parse_args(arguments)
    cases = list(itertools.product(options.platform, options.model, TOKEN_ORDERS))
    progress = Progress(len(cases), lambda line: print(line, file=sys.stderr), unit="programs")
    rows = []
    for platform, model, token_order in cases:
        target = compile_target(
            options,
            platform=platform,
            first_stage_only=model == "stage",
            token_order=token_order,
        )
        names = {"platform": platform, "model": model, "order": token_order}
        rows.append({**names, **measure(target, options.clips)})
        progress.add()
    print(table(rows))
    report = {name: version(name) for name in ("jax", "jaxlib")} | {"rows": rows}
    report |= {name: getattr(options, name) for name in ("variant", "attention", "remat", "clips")}
    write_json(options.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
