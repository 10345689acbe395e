"""Compares the metrics of two runs, bit for bit: `python scripts/compare_metrics.py --help`.

    python scripts/compare_metrics.py runs/before runs/after

Every entry of both metrics.jsonl files is compared, without the fields that measure time. The exit
status is 0 when all are equal, 1 when some differ, which are printed, and 2 for a wrong input.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vswin_jax.errors import InputError
from vswin_jax.reporting.metrics_file import read_metrics
from vswin_jax.runtime.script_parser import print_error, script_parser
from vswin_jax.runtime.standard_streams import run_script

TIMES = ("steps_per_second", "clips_per_second", "data_wait", "mfu")
SHOWN = 5

Entry = Mapping[str, Any]


def run(arguments: Sequence[str]) -> int:
    """Compare two workdirs and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        before, after = (read_entries(path) for path in (options.before, options.after))
    except InputError as error:
        return print_error(error)
    differing = [key for key in before | after if before.get(key) != after.get(key)]
    for key in differing[:SHOWN]:
        print(f"{key[0]} at step {key[1]}:\n  {before.get(key)}\n  {after.get(key)}")
    print(f"{len(differing)} of {len(before | after)} entries differ")
    return 1 if differing else 0


def read_entries(workdir: str) -> dict[tuple[str, int], Entry]:
    """Read the training and evaluation metrics of a workdir, by kind and step, without times.

    Raises:
      InputError: the workdir has no metrics.
    """
    path = Path(os.path.expanduser(workdir)) / "metrics.jsonl"
    if not path.is_file():
        raise InputError(
            f"Expected the workdir of a run but {str(path)!r} does not exist: correct the path."
        )
    return {
        (kind, entry["step"]): {name: v for name, v in entry.items() if name not in TIMES}
        for kind in ("train", "quick", "final")
        for entry in read_metrics(path, kind)
    }


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    parser.add_argument("before", metavar="WORKDIR", help="the directory of a run")
    parser.add_argument("after", metavar="WORKDIR", help="the directory of another run")
    return parser


if __name__ == "__main__":
    sys.exit(run_script(run))
