"""Combines the answers of several models or views: the weighted mean of their scores.

    python -m vswin_jax.combine a.jsonl b.jsonl --weights 1 0.5 --out c.jsonl

FILE is what `python -m vswin_jax.predict --out FILE --scores all` has written, in any of its
formats. Videos and classes are matched by their names. If the classes of the videos are known, the
scores of each file and those of the fusion, on the same videos, are printed as a table. The exit
status is 2 for a wrong input.

From Python the module itself can be called: `vswin_jax.combine(...)` is
`vswin_jax.inference.combine(...)`.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vswin_jax.errors import InputError
from vswin_jax.runtime.callable_module import make_callable
from vswin_jax.runtime.printable import printable
from vswin_jax.runtime.script_parser import command_parser, print_error
from vswin_jax.runtime.standard_streams import print_message, run_script

if TYPE_CHECKING:
    from vswin_jax.inference import CombinedAnswers


def run(arguments: Sequence[str]) -> int:
    """Combine the files that the arguments name and return the exit status."""
    options = _parser().parse_args(arguments)
    from vswin_jax import inference

    try:
        combined = inference.combine(
            options.files,
            options.out,
            weights=options.weights,
            topk=options.topk,
            allow_missing=options.allow_missing,
            overwrite=options.overwrite,
        )
    except InputError as error:
        return print_error(error)
    if combined.left_out:
        print_message(f"{len(combined.left_out)} videos that only some files answer are left out")
    _print_scores([*options.files, options.out or "combined"], combined)
    return 0


def _print_scores(names: Sequence[str], combined: "CombinedAnswers") -> None:
    print(f"{len(combined.answers)} videos")
    if not combined.scores:
        return
    width = max(map(len, names))
    for name, scores in zip(names, [*combined.own_scores, combined.scores], strict=True):
        print(printable(f"{name:{width}}  {_columns(scores)}"), flush=True)


def _columns(scores: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:7.2%}" for name, value in scores.items())


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__, "combine")
    add = parser.add_argument
    path = {"type": os.path.expanduser}
    add("files", **path, nargs="+", metavar="FILE", help="answers with the scores of all classes")
    add("--weights", type=float, nargs="+", metavar="W", help="one a file (equal ones)")
    add("--out", **path, metavar="FILE", help="write the combined answers, in any format")
    add("--topk", type=int, default=5, metavar="K", help="classes a video (5)")
    missing_help = "leave out videos that only some of the files answer"
    add("--allow-missing", action="store_true", help=missing_help)
    overwrite_help = "replace answers in --out that are no earlier combination"
    add("--overwrite", action="store_true", help=overwrite_help)
    return parser


make_callable(__name__)

if __name__ == "__main__":
    sys.exit(run_script(run))
