"""What the order of tokens does to the compiled training step.

    python benchmarks/token_order.py [--platform cpu v5e:1x1] [--variant tiny] [--json out.json]

Each row is a training step of experiments/k400.py, compiled but not run, in bfloat16: of a model of
the first stage alone, or of all of them. "map" is the reference's order between blocks. Operations
inside fusions count too, those in loops as often as they run. A TPU program needs its compiler
(pip install -e ".[tpu]") and minutes. Compile time is that of the processor, over all cores, since
that of the clock depends on what else runs.
"""

import argparse
import itertools
import json
import resource
import runpy
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from vswin_jax.analysis.compiled_program import read_program
from vswin_jax.analysis.dry_run import Subject
from vswin_jax.analysis.hlo_text import Module, parse_module
from vswin_jax.analysis.topologies import topology_devices
from vswin_jax.runtime.atomic_write import whole_file
from vswin_jax.runtime.progress import Progress

RECIPES = Path(__file__).parents[1] / "experiments" / "k400.py"
COUNTED = ("gather", "scatter", "copy", "transpose", "slice", "concatenate", "pad")
ORDERS = ("map", "windows")


def subject_of(options: argparse.Namespace, platform: str, stage: bool, order: str) -> Subject:
    """The training step of a row."""
    config = runpy.run_path(str(RECIPES))["get_config"](f"variant={options.variant}")
    config.model.update(token_order=order, dtype="bfloat16", remat=options.remat)
    config.model.attention = options.attention
    if stage:
        heads = {"tiny": 3, "small": 3, "base": 4, "large": 6}[options.variant]
        config.model.update(depths=(2,), num_heads=(heads,))
    config.train.update(batch_size=options.clips, accumulate=1)
    devices = jax.devices("cpu") if platform == "cpu" else topology_devices(platform)
    return Subject.of(config, devices[:1])


def operations(module: Module) -> dict[str, int]:
    """How often each of `COUNTED` runs; an asynchronous copy counts as a copy."""
    counts: Counter[str] = Counter()
    for execution in module.executions:
        counts[execution.instruction.opcode.removesuffix("-start")] += execution.times
    return {name: counts[name] for name in COUNTED}


def largest_constant(module: Module) -> int:
    """Bytes of the largest array that is written out in the program."""
    instructions = (execution.instruction for execution in module.executions)
    return max(
        (sum(array.bytes for array in i.results) for i in instructions if i.opcode == "constant"),
        default=0,
    )


def measure(subject: Subject, clips: int) -> dict[str, Any]:
    """Compiles the step; what the table shows of it."""
    with jax.sharding.use_abstract_mesh(subject.mesh.abstract_mesh):
        begin = _processor_seconds()
        lowered = subject.train_step.lower(subject.state, subject.batch(clips, views=1))
        traced = _processor_seconds()
        compiled = lowered.compile()
        done = _processor_seconds()
    program, module = read_program(compiled), parse_module(compiled.as_text())
    return {
        **operations(module),
        "bytes": program.bytes_accessed,
        "temporaries": program.memory.temporaries,
        "largest_constant": largest_constant(module),
        "trace_seconds": traced - begin,
        "compile_seconds": done - traced,
    }


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """All rows as Markdown."""
    head = ("platform", "model", "order", *COUNTED, "accessed", "temporaries")
    head += ("largest constant", "traced", "compiled")
    lines = [head, ("---",) * len(head), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: Mapping[str, Any]) -> Sequence[str]:
    return (
        *(row["platform"], row["model"], row["order"]),
        *(str(row[name]) for name in COUNTED),
        *(f"{row[name] / 1e9:.2f} GB" for name in ("bytes", "temporaries")),
        f"{row['largest_constant'] / 1e3:.0f} kB",
        *(f"{row[name]:.0f} s" for name in ("trace_seconds", "compile_seconds")),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles all rows, prints the table and writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--platform", nargs="+", default=["cpu", "v5e:1x1"])
    parser.add_argument("--variant", default="tiny", choices=("tiny", "small", "base", "large"))
    parser.add_argument("--model", nargs="+", default=["stage", "whole"])
    parser.add_argument("--attention", default="xla")
    parser.add_argument("--remat", default="block")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    wanted = list(itertools.product(options.platform, options.model, ORDERS))
    progress = Progress(len(wanted), lambda line: print(line, file=sys.stderr), things="programs")
    rows = []
    for platform, model, order in wanted:
        subject = subject_of(options, platform, model == "stage", order)
        names = {"platform": platform, "model": model, "order": order}
        rows.append({**names, **measure(subject, options.clips)})
        progress.add()
    print(table(rows))
    if options.json:
        report = {name: version(name) for name in ("jax", "jaxlib")} | {"rows": rows}
        report |= {name: getattr(options, name) for name in ("variant", "attention", "remat")}
        with whole_file(options.json) as path:
            path.write_text(json.dumps(report | {"clips": options.clips}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
