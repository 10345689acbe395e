"""Compiles training steps for TPU slices that are not here: memory, traffic, weak scaling on paper.

    pip install -e ".[tpu]"
    python benchmarks/tpu_compile.py --json benchmarks/results/tpu_compile.json [--only swin_t ...]

The real TPU compiler does it, on a CPU: minutes a row. The recipes are those of experiments/k400.py
in bfloat16, with the settings that the table names. Rows that the JSON file has from earlier calls
stay in it and in the table. The exit status is 1 where a row does not fit its chips.
"""

import argparse
import json
import logging
import runpy
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from vswin_jax.analysis.dry_run import Attempt, Subject, compile_train_step
from vswin_jax.analysis.dry_run.roofline import Roofline
from vswin_jax.analysis.dry_run.sizes import amount, bytes_a_chip, duration, memory, micro_rows
from vswin_jax.analysis.topologies import topology_devices
from vswin_jax.errors import InputError
from vswin_jax.runtime.atomic_write import whole_file
from vswin_jax.runtime.hardware import tpu

RECIPES = Path(__file__).parents[1] / "experiments" / "k400.py"
PACKAGES = ("jax", "jaxlib", "libtpu")


@dataclass(frozen=True)
class Row:
    """A recipe on a slice. settings: of the config, by their dotted names."""

    recipe: str
    topology: str
    settings: Mapping[str, Any]


REMAT = {"model.remat": "block"}
# 16 clips a chip in four micro-batches are the recipe's 64 on the smallest slice.
TINY = REMAT | {"train.accumulate": 4}
ONE_CLIP_A_CHIP = {
    "train.batch_size": 256,
    "train.accumulate": 1,
    "mesh.data": 16,
    "mesh.fsdp": 16,
}
ROWS = {
    "swin_t": Row("variant=tiny", "v5e:2x2", TINY),
    "swin_b_v5e": Row("variant=base", "v5e:4x4", REMAT | {"train.accumulate": 4}),
    "swin_b_v4": Row("variant=base", "v4:2x2x4", REMAT | {"train.accumulate": 1}),
    # The recipe's 64 clips would leave three chips of four without any.
    "swin_l384": Row(
        "variant=large,pretrain=22k,size=384",
        "v5e:16x16",
        REMAT | ONE_CLIP_A_CHIP,
    ),
    "weak_16": Row("variant=tiny", "v5e:4x4", TINY | {"train.batch_size": 256}),
    "weak_64": Row("variant=tiny", "v5e:8x8", TINY | {"train.batch_size": 1024}),
    "weak_256": Row("variant=tiny", "v5e:16x16", TINY | {"train.batch_size": 4096}),
}


def measure(row: Row) -> dict[str, Any]:
    """Compiles a row; what the table shows of it, and what it was made of."""
    config = runpy.run_path(str(RECIPES))["get_config"](row.recipe)
    config.update_from_flattened_dict(dict(row.settings))
    subject = Subject.of(config, topology_devices(row.topology))
    before = time.process_time()
    attempt = compile_train_step(subject)
    cpu_seconds = time.process_time() - before
    return {
        **asdict(row),
        "chips": subject.mesh.size,
        "batch": config.train.batch_size,
        "clips_a_pass": micro_rows(subject),
        "state_bytes": bytes_a_chip(subject.state),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(subject.state.params)),
        "compile_seconds": attempt.seconds,
        "compile_cpu_seconds": cpu_seconds,
        "needed_bytes": attempt.needed,
        "available_bytes": attempt.available,
        "fits": attempt.fits,
        **_program(attempt, row),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _program(attempt: Attempt, row: Row) -> dict[str, Any]:
    program = attempt.program
    if program is None:
        return {}
    bound = Roofline.of(program, tpu(row.topology.partition(":")[0]))
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
        "link_seconds": bound.links,
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """All rows as Markdown, each number that of one chip."""
    head = (
        *("row", "slice", "clips a step", "a pass", "needs of", "FLOP", "traffic", "sent"),
        *("step at least", "compiled in", "CPU"),
    )
    lines = [head, ("---",) * len(head)]
    lines += [_cells(name, results[name]) for name in ROWS if name in results]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(name: str, result: Mapping[str, Any]) -> Sequence[str]:
    needs = f"{memory(result['needed_bytes'])} of {memory(result['available_bytes'])}"
    first = (
        *(name, result["topology"], str(result["batch"]), f"{result['clips_a_pass']:g}"),
        needs if result["fits"] else f"{needs}: DOES NOT FIT",
    )
    cost = f"{result['compile_seconds']:.0f} s", f"{result['compile_cpu_seconds']:.0f} s"
    if not result["fits"]:
        return (*first, *["-"] * 4, *cost)
    return (
        *first,
        amount(result["flops"], "FLOP"),
        amount(result["memory_traffic"], "B"),
        amount(result["wire_bytes"], "B"),
        duration(result["bound_seconds"]),
        *cost,
    )


def _saved(path: Path | None) -> dict[str, Any]:
    return json.loads(path.read_text()) if path and path.exists() else {}


def _save(path: Path | None, results: Mapping[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_text(json.dumps(results, indent=1) + "\n")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compiles training steps for absent TPU slices.")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--json", type=Path, metavar="PATH", help="results, kept between calls")
    asked = parser.parse_args()
    logging.basicConfig(
        format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stderr, force=True
    )
    logging.getLogger("vswin_jax").setLevel(logging.INFO)
    results = _saved(asked.json)
    for number, name in enumerate(asked.only, 1):
        row = ROWS[name]
        print(f"{number} of {len(asked.only)}: {name} on {row.topology}", file=sys.stderr)
        try:
            results[name] = measure(row)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        _save(asked.json, results)
    print(table(results))
    return 0 if all(results[name]["fits"] for name in asked.only) else 1


if __name__ == "__main__":
    sys.exit(main())
