"""Training steps compiled for absent TPU slices: memory, traffic and the expected weak scaling.

    python benchmarks/tpu_compile.py --json benchmarks/results/tpu_compile.json [--only swin_t ...]

The real TPU compiler (pip install -e ".[tpu]") compiles them on a CPU, in minutes per row. The
recipes are those of experiments/k400.py in bfloat16, with the settings in `ROWS`. Rows that the
file of --json has from earlier calls stay in it and in the table. The exit status is 1 if a row
does not fit its chips.
"""

import argparse
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import jax
from json_files import read_json, write_json
from recipes import k400_config

from vswin_jax.analysis.dry_run import CompileResult, CompileTarget, compile_train_step
from vswin_jax.analysis.dry_run.roofline import Roofline
from vswin_jax.analysis.dry_run.sizes import (
    bytes_per_device,
    format_bytes,
    format_seconds,
    format_si,
    microbatch_size,
)
from vswin_jax.analysis.topologies import topology_devices
from vswin_jax.errors import InputError
from vswin_jax.runtime.hardware import tpu
from vswin_jax.runtime.script_parser import writable_file

PACKAGES = ("jax", "jaxlib", "libtpu")


@dataclass(frozen=True)
class RecipeOnSlice:
    """A recipe on a slice; `settings` are those of the config, by dotted names."""

    recipe: str
    topology: str
    settings: Mapping[str, Any]


REMAT = {"model.remat": "block"}
# 16 clips per chip in four micro-batches are the recipe's 64 on the smallest slice.
TINY = REMAT | {"train.grad_accum_steps": 4}
ONE_CLIP_PER_CHIP = {
    "train.batch_size": 256,
    "train.grad_accum_steps": 1,
    "mesh.data": 16,
    "mesh.fsdp": 16,
}
ROWS = {
    "swin_t": RecipeOnSlice("variant=tiny", "v5e:2x2", TINY),
    "swin_b_v5e": RecipeOnSlice("variant=base", "v5e:4x4", REMAT | {"train.grad_accum_steps": 4}),
    "swin_b_v4": RecipeOnSlice("variant=base", "v4:2x2x4", REMAT | {"train.grad_accum_steps": 1}),
    # With the recipe's 64 clips three of four chips would have no clip.
    "swin_l384": RecipeOnSlice(
        "variant=large,pretrain=22k,size=384", "v5e:16x16", REMAT | ONE_CLIP_PER_CHIP
    ),
    "weak_16": RecipeOnSlice("variant=tiny", "v5e:4x4", TINY | {"train.batch_size": 256}),
    "weak_64": RecipeOnSlice("variant=tiny", "v5e:8x8", TINY | {"train.batch_size": 1024}),
    "weak_256": RecipeOnSlice("variant=tiny", "v5e:16x16", TINY | {"train.batch_size": 4096}),
}


def measure(row: RecipeOnSlice) -> dict[str, Any]:
    """Compile a row and return its fields in the result file."""
    config = k400_config(row.recipe, row.settings)
    target = CompileTarget.from_config(config, topology_devices(row.topology))
    start = time.process_time()
    result = compile_train_step(target)
    cpu_seconds = time.process_time() - start
    return {
        **asdict(row),
        "chips": target.mesh.size,
        "batch": config.train.batch_size,
        "clips_a_pass": microbatch_size(target),
        "state_bytes": bytes_per_device(target.state),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(target.state.params)),
        "compile_seconds": result.seconds,
        "compile_cpu_seconds": cpu_seconds,
        "needed_bytes": result.needed,
        "available_bytes": result.available,
        "fits": result.fits,
        **_program_fields(result, row),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _program_fields(result: CompileResult, row: RecipeOnSlice) -> dict[str, Any]:
    """Return the fields of the compiled program, which is missing where it does not fit."""
    program = result.program
    if program is None:
        return {}
    bound = Roofline.from_program(program, tpu(row.topology.partition(":")[0]))
    return {
        "temporary_bytes": program.memory.temporaries,
        "flops": program.flops,
        "bytes_accessed": program.bytes_accessed,
        "memory_traffic": program.memory_traffic,
        "wire_bytes": program.wire_bytes,
        "collectives": program.by_kind(),
        "pallas_kernels": program.custom_calls.get("tpu_custom_call", 0),
        "bound_seconds": bound.seconds,
        "bound_limit": bound.limit,
        "link_seconds": bound.interconnect,
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return all rows as Markdown; all numbers are per chip, except the clips per step."""
    header = ["row", "slice", "clips per step", "clips per pass", "needs of", "FLOP", "traffic"]
    header += ["sent", "step at least", "compiled in", "CPU time"]
    lines = [header, ["---"] * len(header)]
    lines += [_cells(name, results[name]) for name in ROWS if name in results]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(name: str, result: Mapping[str, Any]) -> list[str]:
    needs = f"{format_bytes(result['needed_bytes'])} of {format_bytes(result['available_bytes'])}"
    cells = [name, result["topology"], str(result["batch"]), f"{result['clips_a_pass']:g}"]
    cells += [needs if result["fits"] else f"{needs}: DOES NOT FIT"]
    if result["fits"]:
        cells += [
            format_si(result["flops"], "FLOP"),
            format_si(result["memory_traffic"], "B"),
            format_si(result["wire_bytes"], "B"),
            format_seconds(result["bound_seconds"]),
        ]
    else:
        cells += ["-"] * 4
    return [*cells, *(f"{result[key]:.0f} s" for key in ("compile_seconds", "compile_cpu_seconds"))]


def main() -> int:
    """Compile the rows, write the file of --json after each row, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument(
        "--json", type=writable_file, metavar="PATH", help="file of results, also of earlier calls"
    )
    options = parser.parse_args()
    logging.basicConfig(
        format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stderr, force=True
    )
    logging.getLogger("vswin_jax").setLevel(logging.INFO)
    results = read_json(options.json, default={})
    for number, name in enumerate(options.only, 1):
        row = ROWS[name]
        print(f"{number} of {len(options.only)}: {name} on {row.topology}", file=sys.stderr)
        try:
            results[name] = measure(row)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        write_json(options.json, results)
    print(table(results))
    return 0 if all(results[name]["fits"] for name in options.only) else 1


if __name__ == "__main__":
    sys.exit(main())
