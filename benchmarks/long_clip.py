"""Memory per chip to train on a long clip that 1, 2, 4 or 8 chips share, by the TPU compiler.

    python benchmarks/long_clip.py [--frames 128] [--depths 2 2 18 2] [--windows 1 2 4 8]

The model is Swin-L at 384 (window 8x12x12) with every block rematerialised, in bfloat16; each group
of `--windows` chips of a v5e trains on one clip. No TPU is needed; its compiler is (pip install -e
".[tpu]"). A row takes minutes of CPU time, and many minutes at full depth. The frames must divide
into whole windows: 96 frames (6 windows along time) over 1 or 2 chips, 128 over 1 to 8.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from json_files import write_json
from ml_collections import ConfigDict
from recipes import k400_config

from vswin_jax.analysis.dry_run import CompileResult, CompileTarget, compile_train_step
from vswin_jax.analysis.dry_run.sizes import bytes_per_device, format_bytes, format_si
from vswin_jax.analysis.topologies import topology_devices
from vswin_jax.errors import InputError
from vswin_jax.runtime.script_parser import writable_file

# By the number of chips per clip. No v5e slice has two chips: on the four of 2x2 there are two
# clips, and each is on two chips.
SLICES = {1: "v5e:1x1", 2: "v5e:2x2", 4: "v5e:2x2", 8: "v5e:2x4"}
DEPTHS = (2, 2, 18, 2)


def long_clip_config(window: int, chips: int, frames: int, depths: Sequence[int]) -> ConfigDict:
    """Return the recipe of Swin-L at 384 for `frames` frames, `window` of the chips per clip."""
    settings = {
        "model.remat": "block",
        "model.depths": tuple(depths),
        "data.num_frames": frames,
        "train.batch_size": chips // window,
        "train.grad_accum_steps": 1,
        "mesh.window": window,
    }
    return k400_config("variant=large,pretrain=22k,size=384", settings)


def measure(window: int, frames: int, depths: Sequence[int]) -> dict[str, Any]:
    """Compile the training step for `window` chips per clip and return its row."""
    devices = topology_devices(SLICES[window])
    config = long_clip_config(window, len(devices), frames, depths)
    target = CompileTarget.from_config(config, devices)
    result = compile_train_step(target)
    return {
        "window": window,
        "slice": SLICES[window],
        "frames": frames,
        "depths": list(depths),
        "state_bytes": bytes_per_device(target.state),
        "needed_bytes": result.needed,
        "available_bytes": result.available,
        "fits": result.fits,
        "compile_seconds": result.seconds,
        **_program_fields(result),
    }


def _program_fields(result: CompileResult) -> dict[str, Any]:
    """Return the fields of the compiled program, which is missing where it does not fit."""
    program = result.program
    if program is None:
        return {}
    return {
        "temporary_bytes": program.memory.temporaries,
        "flops": program.flops,
        "collectives": program.by_kind(),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as Markdown; all numbers are per chip."""
    header = ["chips per clip", "slice", "needs of", "state", "temporaries", "permutes"]
    header += ["all-reduces", "compiled"]
    lines = [header, ["---"] * len(header), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    needs = f"{format_bytes(row['needed_bytes'])} of {format_bytes(row['available_bytes'])}"
    return [
        str(row["window"]),
        row["slice"],
        needs if row["fits"] else f"{needs}: DOES NOT FIT",
        format_bytes(row["state_bytes"]),
        format_bytes(row["temporary_bytes"]) if "temporary_bytes" in row else "-",
        _format_collectives(row, "collective-permute"),
        _format_collectives(row, "all-reduce"),
        f"{row['compile_seconds']:.0f} s",
    ]


def _format_collectives(row: Mapping[str, Any], kind: str) -> str:
    kinds: Mapping[str, Sequence[float]] = row.get("collectives", {})
    if kind not in kinds:
        return "none"
    count, sent_bytes = kinds[kind][:2]
    return f"{count} of {format_si(sent_bytes, 'B')}"


def main() -> int:
    """Compile all rows, print the table and write the file of --json after each row."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=128, help="frames of the clip (%(default)s)")
    parser.add_argument(
        "--depths", type=int, nargs="+", default=list(DEPTHS), help="blocks per stage"
    )
    parser.add_argument(
        "--windows",
        type=int,
        nargs="+",
        choices=SLICES,
        default=list(SLICES),
        help="chips per clip, one row each",
    )
    parser.add_argument("--json", type=writable_file, metavar="PATH", help="file of the results")
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("vswin_jax").setLevel(logging.INFO)
    rows: list[dict[str, Any]] = []
    for number, window in enumerate(options.windows, 1):
        print(f"{number} of {len(options.windows)}: window {window}", file=sys.stderr)
        try:
            rows.append(measure(window, options.frames, options.depths))
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        write_json(options.json, rows)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
