"""Probes features by k-NN and a linear classifier: `python scripts/probe.py --help`.

    python -m vswin_jax.features train.csv --checkpoint runs/a --out a/train
    python -m vswin_jax.features test.csv --checkpoint runs/a --out a/test
    python scripts/probe.py --train a/train b/train --test a/test b/test

Prints a row for each pair of directories: how well the test videos are classified by the features
of the training videos, without any training of the model. It chooses a checkpoint, a layer or
pretrained weights in a minute. k-NN takes cosine similarities; the linear classifier is a ridge
regression in closed form. The number of neighbours (k) and the regularisation are chosen on a fifth
of the training videos. The scores are accuracies, or the mAP of multi-label videos. Vectors are the
mean over the views, and over time and space of feature maps. The exit status of a wrong input is 2.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from vswin_jax.errors import InputError
from vswin_jax.inference.probing import probe
from vswin_jax.inference.probing.probe_data import load_pair
from vswin_jax.runtime.printable import printable
from vswin_jax.runtime.script_parser import print_error, script_parser
from vswin_jax.runtime.standard_streams import print_result, run_script

_HEADER = ("features", "step", "layer", "C", "train", "test", "k-NN", "k", "linear", "penalty")


def run(arguments: Sequence[str]) -> int:
    """Print the table of the directories and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if len(options.train) != len(options.test):
            raise InputError(
                f"Expected a directory of --test for each of --train but {len(options.test)} and "
                f"{len(options.train)} came: give them in the same order."
            )
        pairs = zip(options.train, options.test, strict=True)
        rows = [_row(train, test) for train, test in pairs]
    except InputError as error:
        return print_error(error)
    print_result(_table([_HEADER, *(cells for cells, _ in rows)]))
    print_result(f"scores: {' and '.join(sorted({metric for _, metric in rows}))}")
    return 0


def _row(train_path: str, test_path: str) -> tuple[tuple[str, ...], str]:
    """Return the cells of a pair of directories, and the name of the metric."""
    train, test, settings = load_pair(train_path, test_path)
    result = probe(train, test)
    cells = (
        printable(train_path),
        "-" if settings["step"] is None else str(settings["step"]),
        settings["layer"],
        *map(str, (train.vectors.shape[1], len(train), len(test))),
        f"{result.knn:.2%}",
        str(result.k),
        f"{result.linear:.2%}",
        f"{result.strength:g}",
    )
    return cells, "mAP" if test.multi_label else "accuracy"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    for name in ("train", "test"):
        parser.add_argument(
            f"--{name}",
            type=os.path.expanduser,
            nargs="+",
            required=True,
            metavar="DIR",
            help=f"directories of the features of {name} videos",
        )
    return parser


if __name__ == "__main__":
    sys.exit(run_script(run))
