"""How many clips a second: what train_step.py and inference.py have in common.

On a CPU the contenders live together and take turns, one call each, so that a machine whose speed
drifts treats all alike. On a GPU each has it for itself, with batches that double until memory
ends, every one in a fresh process, whose peak is therefore its own.
"""

import argparse
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kept_rows import KeptRows, Row
from model_worker import CONTENDERS, Work
from throughput_table import HEAD, comparison, line
from turns import together

from vswin_jax.models.variants import VARIANTS, Variant
from vswin_jax.runtime.script_parser import script_parser

# The last is for trying the scripts.
SIZES = {
    **{name.removeprefix("swin_"): variant for name, variant in VARIANTS.items()},
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


def parse(docstring: str | None, dtypes: dict[str, list[str]]) -> argparse.Namespace:
    """The command line; `dtypes` are those that each device measures unless told otherwise."""
    parser = script_parser(docstring)
    parser.add_argument("--device", choices=_DEFAULTS, default="cpu")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--attention", nargs="+", default=["auto"], help="ours, one or several")
    parser.add_argument("--variants", nargs="+", choices=SIZES)
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"])
    parser.add_argument("--clips", nargs="+", type=int, help="a call, ascending")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--size", type=int, default=224, help="pixels of each side")
    parser.add_argument("--rounds", type=int, help="measured calls of each")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of PyTorch")
    parser.add_argument("--torch-python", default=sys.executable, help="the Python with torch")
    parser.add_argument("--minutes", type=float, help="begin nothing new after that long")
    parser.add_argument("--json", type=Path, help="rows, kept between calls")
    parser.add_argument(
        "--autotune",
        nargs="+",
        type=json.loads,
        choices=[False, True],
        metavar="BOOL",
        help="ours on a GPU: false, true or both (both)",
    )
    options = parser.parse_args()
    for name, value in (_DEFAULTS[options.device] | {"dtypes": dtypes[options.device]}).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def groups(options: argparse.Namespace, training: bool) -> Iterator[list[Work]]:
    """Works that are measured together, with the first number of clips."""
    for variant in options.variants:
        works = [
            Work(
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
            for attention, autotune in (
                itertools.product(options.attention, options.autotune)
                if contender == "vswin_jax"
                else [("auto", False)]
            )
        ]
        yield from [works] if options.device == "cpu" else [[work] for work in works]


def measure_all(
    options: argparse.Namespace,
    training: bool,
    kept: KeptRows,
    measure: Callable[[Sequence[Work]], list[Row]],
) -> bool:
    """Measures what is not kept yet; whether all was done in the time that there is.

    What fails, for lack of memory most of all, is not tried with more clips.
    """
    start = time.monotonic()
    for group in groups(options, training):
        failed: set[Work] = set()
        for clips in options.clips:
            works = [dataclasses.replace(work, clips=clips) for work in group if work not in failed]
            rows = [kept.find(dataclasses.asdict(work)) for work in works]
            if None in rows:
                if options.minutes and time.monotonic() - start > 60 * options.minutes:
                    return False
                rows = measure(works)
                kept.add(rows)
            failed |= {
                work
                for work, row in zip([w for w in group if w not in failed], rows, strict=True)
                if row["error"]
            }
    return True


def main(docstring: str | None, training: bool, dtypes: dict[str, list[str]]) -> int:
    """Runs the comparison and prints its tables; 3 where time ran out before the end."""
    options = parse(docstring, dtypes)
    kept = KeptRows(options.json)
    done = measure_all(options, training, kept, lambda works: together(options, works))
    print(HEAD)
    print("\n".join(map(line, kept.rows)))
    print("\n".join(comparison(kept.rows)))
    return 0 if done else 3
