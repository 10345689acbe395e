"""What a chip needs to train on a long clip that 1, 2, 4 or 8 chips share, by the TPU compiler.

    pip install -e ".[tpu]"
    python benchmarks/long_clip.py [--frames 128] [--depths 2 2 18 2] [--windows 1 2 4 8]

The model is Swin-L at 384 (window 8x12x12) with every block rematerialised, in bfloat16, one clip a
group of chips of a v5e. No TPU has to be there; a row takes minutes of a CPU, with all blocks many.
Frames must split into whole windows: 96 (6 windows along time) over 1 or 2 chips, 128 over 1 to 8.
"""

import argparse
import json
import logging
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vswin_jax.analysis.compiled_program import CompiledProgram
from vswin_jax.analysis.dry_run import Attempt, Subject, compile_train_step
from vswin_jax.analysis.dry_run.sizes import amount, bytes_a_chip, memory
from vswin_jax.analysis.topologies import topology_devices
from vswin_jax.errors import InputError
from vswin_jax.runtime.atomic_write import whole_file

RECIPES = Path(__file__).parents[1] / "experiments" / "k400.py"
# Two chips are no slice of their own: there are two clips then, each on two of the four.
SLICES = {1: "v5e:1x1", 2: "v5e:2x2", 4: "v5e:2x2", 8: "v5e:2x4"}
DEPTHS = (2, 2, 18, 2)


def config_of(window: int, chips: int, frames: int, depths: Sequence[int]) -> ConfigDict:
    """The recipe of Swin-L at 384, for clips of `frames` that `window` of `chips` share."""
    config = runpy.run_path(str(RECIPES))["get_config"]("variant=large,pretrain=22k,size=384")
    settings = {
        "model.remat": "block",
        "model.depths": tuple(depths),
        "data.num_frames": frames,
        "train.batch_size": chips // window,
        "train.accumulate": 1,
        "mesh.window": window,
    }
    config.update_from_flattened_dict(settings)
    return config


def measure(window: int, frames: int, depths: Sequence[int]) -> dict[str, Any]:
    """Compiles the training step for `window` chips a clip; what the table shows of it."""
    devices = topology_devices(SLICES[window])
    subject = Subject.of(config_of(window, len(devices), frames, depths), devices)
    attempt = compile_train_step(subject)
    return {
        "window": window,
        "slice": SLICES[window],
        "frames": frames,
        "depths": list(depths),
        "state_bytes": bytes_a_chip(subject.state),
        "needed_bytes": attempt.needed,
        "available_bytes": attempt.available,
        "fits": attempt.fits,
        "compile_seconds": attempt.seconds,
        **_program(attempt),
    }


def _program(attempt: Attempt) -> dict[str, Any]:
    program: CompiledProgram | None = attempt.program
    if program is None:
        return {}
    return {
        "temporary_bytes": program.memory.temporaries,
        "flops": program.flops,
        "collectives": program.by_kind(),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, each number that of one chip."""
    head = (
        "chips a clip",
        "slice",
        "needs of",
        "state",
        "temporaries",
        "moves",
        "sums",
        "compiled",
    )
    lines = [head, ("---",) * len(head), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: Mapping[str, Any]) -> Sequence[str]:
    kinds: Mapping[str, Sequence[float]] = row.get("collectives", {})
    moves, sums = (
        f"{kinds[kind][0]} of {amount(kinds[kind][1], 'B')}" if kind in kinds else "none"
        for kind in ("collective-permute", "all-reduce")
    )
    needs = f"{memory(row['needed_bytes'])} of {memory(row['available_bytes'])}"
    return (
        *(str(row["window"]), row["slice"]),
        needs if row["fits"] else f"{needs}: DOES NOT FIT",
        memory(row["state_bytes"]),
        memory(row["temporary_bytes"]) if "temporary_bytes" in row else "-",
        *(moves, sums, f"{row['compile_seconds']:.0f} s"),
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Memory a chip of a long clip on several chips.")
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument(
        "--depths", type=int, nargs="+", default=list(DEPTHS), help="blocks a stage"
    )
    parser.add_argument("--windows", type=int, nargs="+", choices=SLICES, default=list(SLICES))
    parser.add_argument("--json", type=Path, metavar="PATH", help="where the results go")
    asked = parser.parse_args()
    logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("vswin_jax").setLevel(logging.INFO)
    rows: list[dict[str, Any]] = []
    for number, window in enumerate(asked.windows, 1):
        print(f"{number} of {len(asked.windows)}: window {window}", file=sys.stderr)
        try:
            rows.append(measure(window, asked.frames, asked.depths))
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        if asked.json:
            asked.json.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(asked.json) as partial:
                partial.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
