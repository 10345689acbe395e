"""Window attention alone, in every stage: ours beside PyTorch's SDPA with a mask, time and memory.

    python benchmarks/attention.py [--torch-python OTHER/bin/python] [--json out.json]
    python benchmarks/attention.py --device gpu --json out.json

The windows are those of clips of 32x224x224 in the stages of Swin-T and Swin-B, shifted and not
shifted, forward alone and with the gradients of queries, keys, values and bias. The mask of SDPA is
the sum of the bias and the shift mask; tokamax is measured where it is installed and named
(--contenders xla gpu tokamax sdpa). Memory includes the results and not the inputs; PyTorch does
not report it on a CPU. In bfloat16 the relative errors of the JAX implementations against float32
are printed first. On a CPU the measurements are interleaved; on a GPU each implementation is
measured alone. The file of --json is written after every measurement; the same command resumes
from it.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from attention_worker import JAX_IMPLEMENTATIONS, AttentionCase
from result_cache import ResultCache, Row
from worker_process import GPU_ENVIRONMENT, WorkerDied, WorkerProcess

from vswin_jax.attention import WindowGeometry
from vswin_jax.models.variants import VARIANTS
from vswin_jax.runtime.script_parser import script_parser, writable_file

CONTENDERS = (*JAX_IMPLEMENTATIONS, "sdpa")
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
HEADER = (
    f"{'variant':8} {'stage':5} {'windows':>7} {'heads':>5} {'N':>5} {'shifted':7} {'pass':17} "
    f"{'contender':9} {'ms':>9} {'of xla':>7} {'MB':>9}"
)


def attention_cases(options: argparse.Namespace) -> Iterator[tuple[Row, AttentionCase]]:
    """Yield the fields that identify a case in the result file, and the case."""
    for model in options.variants:
        for stage in options.stages:
            grid = (options.frames // 2, *[options.size // 4 // 2 ** (stage - 1)] * 2)
            for shifted in (False, True):
                geometry = WindowGeometry.create(grid, WINDOW, (4, 3, 3) if shifted else (0, 0, 0))
                # A window that covers the whole grid is never shifted.
                if shifted and not geometry.is_shifted:
                    continue
                ids = geometry.segment_ids
                for backward in (False, True):
                    case = AttentionCase(
                        clips=options.clips,
                        windows=geometry.num_windows,
                        tokens=geometry.tokens,
                        heads=VARIANTS[f"swin_{model}"].num_heads[stage - 1],
                        segment_ids=None if ids is None else ids.tolist(),
                        backward=backward,
                        dtype=options.dtype,
                    )
                    label = {"variant": model, "stage": stage, "shifted": shifted}
                    yield {**label, "frames": options.frames, "size": options.size}, case


def measure_all(options: argparse.Namespace, cache: ResultCache) -> bool:
    """Measure what is not in the cache; return False if `--minutes` ended the work early."""
    start = time.monotonic()
    names = list(options.contenders)
    for group in [names] if options.device == "cpu" else [[name] for name in names]:
        missing = [
            (label, case)
            for label, case in attention_cases(options)
            if any(cache.find(_row_fields(options, name, label, case)) is None for name in group)
        ]
        if not missing:
            continue
        workers = {name: _start_worker(name, options) for name in group}
        if options.dtype == "bfloat16":
            print("\n".join(_error_lines(workers)), flush=True)
        for label, case in missing:
            if options.minutes and time.monotonic() - start > 60 * options.minutes:
                return False
            fields = _row_fields(options, "", label, case)
            cache.add(_measure(options, workers, label, case), fields=fields)
        for worker in workers.values():
            worker.close()
    return True


def _row_fields(options: argparse.Namespace, name: str, label: Row, case: AttentionCase) -> Row:
    """Return the fields that identify the row of an implementation and a case."""
    fields = dataclasses.asdict(case)
    del fields["segment_ids"]
    return {"contender": name, "device": options.device, **label, **fields}


def _start_worker(name: str, options: argparse.Namespace) -> WorkerProcess:
    return WorkerProcess(
        name=name,
        python=options.torch_python if name == "sdpa" else sys.executable,
        script=str(Path(__file__).with_name("attention_worker.py")),
        environment=GPU_ENVIRONMENT if options.device == "gpu" else None,
        arguments=["--device", options.device],
    )


def _error_lines(workers: dict[str, WorkerProcess]) -> Iterator[str]:
    for name, worker in workers.items():
        if name in JAX_IMPLEMENTATIONS:
            reply = worker.request("errors")
            errors = reply.get("errors", {})
            text = ", ".join(f"{tensor} {error:.1e}" for tensor, error in errors.items())
            yield f"{name}: relative errors {text or reply['error']}"


def _measure(
    options: argparse.Namespace,
    workers: dict[str, WorkerProcess],
    label: Row,
    case: AttentionCase,
) -> list[Row]:
    task = json.dumps(dataclasses.asdict(case))
    replies: dict[str, list[Row]] = {name: [] for name in workers}
    for _ in range(options.rounds):
        for name, worker in workers.items():
            if not any("error" in reply for reply in replies[name]):
                replies[name].append(_request(worker, task))
    rows = []
    for name, worker in workers.items():
        row = _row_fields(options, name, label, case) | {"version": worker.version}
        row |= {"error": None, "out_of_memory": False}
        row |= replies[name][-1]
        row.pop("seconds", None)
        seconds = [reply.get("seconds", 0.0) for reply in replies[name]]
        rows.append(row | {"median_s": None if row["error"] else statistics.median(seconds)})
        print(format_row(rows[-1], rows), file=sys.stderr, flush=True)
    return rows


def _request(worker: WorkerProcess, task: str) -> Row:
    try:
        return worker.request(task)
    except WorkerDied as error:
        return {"error": str(error)}


def format_row(row: Row, rows: Sequence[Row]) -> str:
    """Return a line of the table; the column "of xla" is the speed relative to `xla` in `rows`."""
    direction = "forward, backward" if row["backward"] else "forward"
    head = (
        f"{row['variant']:8} {row['stage']:5} {row['clips'] * row['windows']:7} {row['heads']:5} "
        f"{row['tokens']:5} {row['shifted']!s:7} {direction:17} {row['contender']:9}"
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


def _table_rows(rows: Sequence[Row]) -> list[Row]:
    """Sort the rows so that those of one case are together, in the order of their first rows."""
    fields = ("variant", "stage", "shifted", "backward", "clips", "dtype")
    cases: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        cases.setdefault(tuple(row[name] for name in fields), []).append(row)
    return list(itertools.chain.from_iterable(cases.values()))


def _parse_options() -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("--device", choices=_DEFAULTS, default="cpu")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS)
    parser.add_argument("--variants", nargs="+", choices=["tiny", "base"], default=["tiny", "base"])
    parser.add_argument("--stages", nargs="+", type=int, choices=range(1, 5), default=range(1, 5))
    parser.add_argument("--dtype", choices=["float32", "bfloat16"])
    parser.add_argument("--clips", type=int, help="batch size")
    parser.add_argument("--frames", type=int, default=32, help="frames per clip")
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--rounds", type=int, help="measurements per implementation")
    parser.add_argument(
        "--torch-python", default=sys.executable, help="Python interpreter that has PyTorch"
    )
    parser.add_argument("--minutes", type=float, help="start no measurement after this time")
    parser.add_argument("--json", type=writable_file, help="file of results, also of earlier calls")
    options = parser.parse_args()
    for name, value in _DEFAULTS[options.device].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> int:
    """Run the comparison and print its table; return 3 if `--minutes` ended it early."""
    options = _parse_options()
    cache = ResultCache(options.json)
    finished = measure_all(options, cache)
    rows = _table_rows(cache.rows)
    print(HEADER)
    print("\n".join(format_row(row, rows) for row in rows))
    return 0 if finished else 3


if __name__ == "__main__":
    sys.exit(main())
