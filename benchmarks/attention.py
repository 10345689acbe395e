"""Attention alone, of every stage: ours beside PyTorch's SDPA with a mask, time and memory.

    python benchmarks/attention.py [--torch-python OTHER/bin/python] [--json out.json]
    python benchmarks/attention.py --device gpu --json out.json

The windows are those of clips of 32x224x224 in the stages of Swin-T and Swin-B, shifted and not,
forward alone and with the gradients of queries, keys, values and bias. SDPA is given the bias and
the shift mask added up; tokamax takes part when it is named (--contenders xla gpu tokamax sdpa) and
installed. Memory is what is needed beside the inputs, the results included; PyTorch does not tell
on a CPU. In bfloat16 the errors of those in JAX against float32 come first. On a CPU the contenders
take turns; on a GPU each has it for itself. With --json rows are kept as they come, and the same
command goes on.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from attention_worker import JAX, Case
from contenders import ON_GPU, Contender, ContenderDied
from kept_rows import KeptRows, Row

from vswin_jax.attention import WindowGeometry
from vswin_jax.models.variants import VARIANTS
from vswin_jax.runtime.script_parser import script_parser

CONTENDERS = (*JAX, "sdpa")
WINDOW = (8, 7, 7)
_DEFAULTS = {
    "cpu": {"contenders": ["xla", "chunked", "sdpa"], "clips": 1, "dtype": "float32", "rounds": 5},
    "gpu": {
        "contenders": ["xla", "gpu", "sdpa", "chunked"],
        "clips": 8,
        "dtype": "bfloat16",
        "rounds": 20,
    },
}


def cases(options: argparse.Namespace) -> Iterator[tuple[Row, Case]]:
    """What tells a case from the others, and the case."""
    for model in options.variants:
        for stage in options.stages:
            grid = (options.frames // 2, *[options.size // 4 // 2 ** (stage - 1)] * 2)
            for shifted in (False, True):
                geometry = WindowGeometry.create(grid, WINDOW, (4, 3, 3) if shifted else (0, 0, 0))
                if shifted and not geometry.is_shifted:
                    continue
                ids = geometry.region_ids
                for backward in (False, True):
                    case = Case(
                        clips=options.clips,
                        windows=geometry.num_windows,
                        tokens=geometry.tokens,
                        heads=VARIANTS[f"swin_{model}"].num_heads[stage - 1],
                        regions=None if ids is None else ids.tolist(),
                        backward=backward,
                        dtype=options.dtype,
                    )
                    label = {"variant": model, "stage": stage, "shifted": shifted}
                    yield {**label, "frames": options.frames, "size": options.size}, case


def measure_all(options: argparse.Namespace, kept: KeptRows) -> bool:
    """Measures what is not kept yet; whether all was done in the time that there is."""
    start = time.monotonic()
    names = list(options.contenders)
    for group in [names] if options.device == "cpu" else [[name] for name in names]:
        todo = [
            (label, case)
            for label, case in cases(options)
            if any(kept.find(_key(options, name, label, case)) is None for name in group)
        ]
        if not todo:
            continue
        contenders = {name: _start(name, options) for name in group}
        if options.dtype == "bfloat16":
            print("\n".join(_errors(contenders)), flush=True)
        for label, case in todo:
            if options.minutes and time.monotonic() - start > 60 * options.minutes:
                return False
            kept.add(_measure(options, contenders, label, case))
        for contender in contenders.values():
            contender.close()
    return True


def _key(options: argparse.Namespace, name: str, label: Row, case: Case) -> Row:
    fields = dataclasses.asdict(case)
    del fields["regions"]
    return {"contender": name, "device": options.device, **label, **fields}


def _start(name: str, options: argparse.Namespace) -> Contender:
    script = str(Path(__file__).with_name("attention_worker.py"))
    python = options.torch_python if name == "sdpa" else sys.executable
    environment = ON_GPU if options.device == "gpu" else None
    return Contender(name, python, script, environment, ["--device", options.device])


def _errors(contenders: dict[str, Contender]) -> Iterator[str]:
    for name, contender in contenders.items():
        if name in JAX:
            answer = contender.measure("errors")
            found = answer.get("errors", {})
            text = ", ".join(f"{what} {value:.1e}" for what, value in found.items())
            yield f"{name}: relative errors {text or answer['error']}"


def _measure(
    options: argparse.Namespace, contenders: dict[str, Contender], label: Row, case: Case
) -> list[Row]:
    task = json.dumps(dataclasses.asdict(case))
    answers: dict[str, list[Row]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, contender in contenders.items():
            if not any("error" in answer for answer in answers[name]):
                answers[name].append(_ask(contender, task))
    rows = []
    for name, contender in contenders.items():
        row = _key(options, name, label, case) | {"version": contender.version}
        row |= {"error": None, "out_of_memory": False}
        row |= answers[name][-1]
        row.pop("seconds", None)
        seconds = [answer.get("seconds", 0.0) for answer in answers[name]]
        rows.append(row | {"median_s": None if row["error"] else statistics.median(seconds)})
        print(line(rows[-1], rows), file=sys.stderr, flush=True)
    return rows


def _ask(contender: Contender, task: str) -> Row:
    try:
        return contender.measure(task)
    except ContenderDied as error:
        return {"error": str(error)}


HEAD = (
    f"{'variant':8} {'stage':5} {'windows':>7} {'heads':>5} {'N':>5} {'shifted':7} {'pass':17} "
    f"{'contender':9} {'ms':>9} {'of xla':>7} {'MB':>9}"
)


def line(row: Row, rows: Sequence[Row]) -> str:
    """A row of the table; "of xla" is how many times as fast as `xla` it is."""
    both = "forward, backward" if row["backward"] else "forward"
    head = (
        f"{row['variant']:8} {row['stage']:5} {row['clips'] * row['windows']:7} {row['heads']:5} "
        f"{row['tokens']:5} {row['shifted']!s:7} {both:17} {row['contender']:9}"
    )
    if row["error"]:
        return f"{head} {row['error']}"
    xla = next((other["median_s"] for other in rows if _is_xla_of(row, other)), None)
    ratio = f"{xla / row['median_s']:.2f}" if xla else "-"
    memory = "-" if row["memory"] is None else f"{row['memory'] / 1e6:.1f}"
    return f"{head} {row['median_s'] * 1e3:9.3f} {ratio:>7} {memory:>9}"


def _is_xla_of(row: Row, other: Row) -> bool:
    same = ("device", "variant", "stage", "shifted", "backward", "clips", "frames", "size", "dtype")
    return other["contender"] == "xla" and all(row[name] == other[name] for name in same)


def main() -> int:
    """Runs the comparison and prints its table; 3 where time ran out before the end."""
    parser = script_parser(__doc__)
    parser.add_argument("--device", choices=_DEFAULTS, default="cpu")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS)
    parser.add_argument("--variants", nargs="+", choices=["tiny", "base"], default=["tiny", "base"])
    parser.add_argument("--stages", nargs="+", type=int, choices=range(1, 5), default=range(1, 5))
    parser.add_argument("--dtype", choices=["float32", "bfloat16"])
    parser.add_argument("--clips", type=int)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, help="pixels of each side")
    parser.add_argument("--rounds", type=int, help="measurements of each")
    parser.add_argument("--torch-python", default=sys.executable, help="the Python with torch")
    parser.add_argument("--minutes", type=float, help="begin nothing new after that long")
    parser.add_argument("--json", type=Path, help="rows, kept between calls")
    options = parser.parse_args()
    for name, value in _DEFAULTS[options.device].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    kept = KeptRows(options.json)
    done = measure_all(options, kept)
    order = list(dict.fromkeys(json.dumps(_place(row)) for row in kept.rows))
    rows = sorted(kept.rows, key=lambda row: order.index(json.dumps(_place(row))))
    print(HEAD)
    print("\n".join(line(row, rows) for row in rows))
    return 0 if done else 3


def _place(row: Row) -> list[object]:
    return [row[name] for name in ("variant", "stage", "shifted", "backward", "clips", "dtype")]


if __name__ == "__main__":
    sys.exit(main())
