"""Throughput in clips per second: the common part of train_step.py and inference.py.

On a CPU all implementations are measured interleaved, one call at a time, so that drift of the
machine's speed affects all alike. On a GPU each is measured alone, with batch sizes that double
until memory runs out; every batch size gets a new process, so that its peak memory is its own.
"""

import argparse
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from interleaved_runs import measure_interleaved
from model_worker import CONTENDERS, OURS, Workload
from result_cache import ResultCache, Row
from throughput_table import HEADER, compare_with_baselines, format_row

from vswin_jax.models.variants import VARIANTS, Variant
from vswin_jax.runtime.cpu_count import usable_cpus
from vswin_jax.runtime.script_parser import script_parser, writable_file

WORKLOAD_FIELDS = [field.name for field in dataclasses.fields(Workload)]
SIZES = {
    **{name.removeprefix("swin_"): variant for name, variant in VARIANTS.items()},
    # A model for trying the scripts.
    "smallest": Variant(8, (1, 1), (1, 2)),
}
_DEFAULTS = {
    "cpu": {"variants": ["tiny"], "clips": [1], "frames": 16, "rounds": 9, "autotune": [False]},
    "gpu": {
        "autotune": [False, True],
        "variants": ["tiny", "small", "base"],
        "clips": [8 * 2**n for n in range(8)],
        "frames": 32,
        "rounds": 20,
    },
}


def parse_options(docstring: str | None, dtypes: dict[str, list[str]]) -> argparse.Namespace:
    """Parse the command line; `dtypes` are the default data types of each device."""
    parser = script_parser(docstring)
    parser.add_argument("--device", choices=_DEFAULTS, default="cpu")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument(
        "--attention", nargs="+", default=["auto"], help="attention implementations of vswin_jax"
    )
    parser.add_argument("--variants", nargs="+", choices=SIZES)
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"])
    parser.add_argument("--clips", nargs="+", type=int, help="batch sizes, in ascending order")
    parser.add_argument("--frames", type=int, help="frames per clip")
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--rounds", type=int, help="measured calls per implementation")
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="threads of PyTorch")
    parser.add_argument(
        "--torch-python", default=sys.executable, help="Python interpreter that has PyTorch"
    )
    parser.add_argument("--minutes", type=float, help="start no measurement after this time")
    parser.add_argument("--json", type=writable_file, help="file of results, also of earlier calls")
    parser.add_argument(
        "--autotune",
        nargs="+",
        type=json.loads,
        choices=[False, True],
        metavar="BOOL",
        help="train.autotune of vswin_jax on a GPU: false, true or both (default: both)",
    )
    options = parser.parse_args()
    for name, value in (_DEFAULTS[options.device] | {"dtypes": dtypes[options.device]}).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def workload_groups(options: argparse.Namespace, training: bool) -> Iterator[list[Workload]]:
    """Yield groups of workloads that are measured interleaved, at the first batch size."""
    for variant in options.variants:
        workloads = [
            Workload(
                contender=contender,
                attention=attention,
                autotune=autotune,
                training=training,
                variant=variant,
                **dataclasses.asdict(SIZES[variant]),
                dtype=dtype,
                device=options.device,
                clips=options.clips[0],
                frames=options.frames,
                size=options.size,
            )
            for dtype in options.dtypes
            for contender in options.contenders
            for attention, autotune in _own_settings(options, contender)
        ]
        on_cpu = options.device == "cpu"
        yield from [workloads] if on_cpu else [[workload] for workload in workloads]


def _own_settings(options: argparse.Namespace, contender: str) -> list[tuple[str, bool]]:
    """Return the pairs of attention and autotune to measure; they apply to vswin_jax only."""
    if contender != OURS:
        return [("auto", False)]
    return list(itertools.product(options.attention, options.autotune))


def measure_all(
    options: argparse.Namespace,
    training: bool,
    cache: ResultCache,
    measure: Callable[[Sequence[Workload]], list[Row]],
) -> bool:
    """Measure what is not in the cache; return False if `--minutes` ended the work early.

    A workload that failed, usually for lack of memory, is not tried with larger batches.
    """
    start = time.monotonic()
    for group in workload_groups(options, training):
        failed: set[Workload] = set()
        for clips in options.clips:
            active = [workload for workload in group if workload not in failed]
            resized = [dataclasses.replace(workload, clips=clips) for workload in active]
            rows = [cache.find(dataclasses.asdict(workload)) for workload in resized]
            if None in rows:
                if options.minutes and time.monotonic() - start > 60 * options.minutes:
                    return False
                rows = measure(resized)
                cache.add(rows, fields=WORKLOAD_FIELDS)
            failed |= {workload for workload, row in zip(active, rows, strict=True) if row["error"]}
    return True


def main(docstring: str | None, training: bool, dtypes: dict[str, list[str]]) -> int:
    """Run the comparison and print its tables; return 3 if `--minutes` ended it early."""
    options = parse_options(docstring, dtypes)
    cache = ResultCache(options.json)
    finished = measure_all(
        options, training, cache, lambda workloads: measure_interleaved(options, workloads)
    )
    print(HEADER)
    print("\n".join(map(format_row, cache.rows)))
    print("\n".join(compare_with_baselines(cache.rows)))
    return 0 if finished else 3
