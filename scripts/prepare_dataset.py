"""Prepares videos for training: `python scripts/prepare_dataset.py --help`.

    python scripts/prepare_dataset.py --out OUT --split train=train.txt --split val=val.txt
    python -m vswin_jax.main --config.data.train=OUT:train --config.data.eval=OUT:val ...

PATH is as in config.data.train: an annotation file, a folder of classes, a published list, or a
split of a TFDS data set. Videos are re-encoded, small and fast to decode, without sound. OUT
becomes a directory of record shards that TFDS opens (--to records), or holds the videos in folders
and a list of each split, OUT/train.csv (--to videos). Beside them are manifest.csv, and
bad_videos.csv, which lists the videos that were left out with the reason.

The same command continues a run that was killed. If more than --max-bad-fraction of the videos are
bad, OUT is not completed: repair the videos in bad_videos.csv and give the same command, which
tries only those again, or raise the fraction. The exit status is then 1; it is 0 if OUT is
complete, and 2 for a wrong input.

With --beam an Apache Beam pipeline does the same; its options follow a `--`. OUT and the videos
must then be on a file system that all workers see under the same paths:

    python scripts/prepare_dataset.py --beam --out OUT --split train=train.txt -- --runner=Flink...
"""

import argparse
import dataclasses
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from vswin_jax.config.plugins import import_plugins
from vswin_jax.data.example import Source
from vswin_jax.data.sources.sources import KINDS, open_source
from vswin_jax.errors import InputError, rename_arguments
from vswin_jax.prepare.job import Outcome, prepare
from vswin_jax.prepare.options import (
    PRESETS,
    STORES,
    TARGETS,
    PrepareOptions,
    options_from_flags,
)
from vswin_jax.prepare.shard_plan import make_plan
from vswin_jax.runtime.cpu_count import usable_cpus
from vswin_jax.runtime.label_names import read_label_names
from vswin_jax.runtime.output_path import local_path
from vswin_jax.runtime.printable import printable
from vswin_jax.runtime.script_parser import positive_int, print_error, script_parser
from vswin_jax.runtime.standard_streams import print_message, run_script

MAX_BAD_FRACTION = 0.05
# For errors of `open_source`.
_FLAG_OF_ARGUMENT = {
    "the data format": "--format",
    "the label names": "--label-names",
    "the root": "--root",
    "the root of its paths": "--root, the folder of its paths",
}


def run(arguments: Sequence[str]) -> int:
    """Run the command line: prepare the data set and return the exit status."""
    own_arguments, beam_options = _split_at_dashes(arguments)
    args = _parser().parse_args(own_arguments)
    try:
        outcome = _prepare(args, beam_options)
    except InputError as error:
        return print_error(error)
    except KeyboardInterrupt:
        print_message("stopped: give the same command to continue")
        return 130
    print(printable(_describe(outcome, args)))
    return 0 if outcome.complete else 1


def _prepare(args: argparse.Namespace, beam_options: list[str] | None) -> Outcome:
    names = {field.name for field in dataclasses.fields(PrepareOptions)}
    given = {k: v for k, v in vars(args).items() if k in names and v is not None}
    options = options_from_flags(given)
    _check_beam(args, beam_options)
    args.out = local_path(args.out, "--out")
    sources = _open_sources(args)
    return prepare(
        make_plan(options, sources),
        sources,
        args.out,
        processes=args.processes or usable_cpus(),
        max_bad_fraction=args.max_bad_fraction,
        write_line=print_message,
        beam_options=(beam_options or []) if args.beam else None,
    )


def _open_sources(args: argparse.Namespace) -> dict[str, Source]:
    """Open the source of each split; the first one defines the classes."""
    import_plugins(args.plugins)
    names = read_label_names(args.label_names) if args.label_names else None
    sources: dict[str, Source] = {}
    for split, path in args.split:
        if split in sources:
            raise InputError(f"Expected every split once but {split!r} came twice: rename one.")
        with rename_arguments(_FLAG_OF_ARGUMENT):
            sources[split] = open_source(
                path, root=args.root, kind=args.format, label_names=names, must_exist=False
            )
        names = sources[split].label_names
    return sources


def _check_beam(args: argparse.Namespace, beam_options: list[str] | None) -> None:
    if not args.beam and beam_options is not None:
        raise InputError("What follows -- are options of Beam: add --beam, or leave them out.")
    if args.beam and args.processes:
        raise InputError("--processes has no effect with --beam: give the runner's own option.")
    if args.beam and importlib.util.find_spec("apache_beam") is None:
        raise InputError(
            '--beam needs Apache Beam: pip install "vswin_jax[beam]", or leave it out.'
        )


def _describe(outcome: Outcome, args: argparse.Namespace) -> str:
    if outcome.was_complete:
        return f"{args.out} is finished already"
    bad = f"{outcome.bad} of {outcome.examples} videos are bad: see {args.out}/bad_videos.csv"
    if outcome.complete:
        good = f"{outcome.examples - outcome.bad} videos are in {args.out}"
        return f"{good}; {bad}" if outcome.bad else good
    return (
        f"{bad}; that is more than --max-bad-fraction ({args.max_bad_fraction:g}) allows, or all "
        "of a split: repair them and give the same command again, which tries them again, or raise "
        "the fraction"
    )


def _split_at_dashes(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Split the arguments at the first `--`; None stands for no `--`."""
    arguments = list(arguments)
    if "--" not in arguments:
        return arguments, None
    index = arguments.index("--")
    return arguments[:index], arguments[index + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__, allow_abbrev=False)
    add = parser.add_argument
    path = {"type": os.path.expanduser}
    add("--out", required=True, metavar="OUT", help="the directory to write")
    split_help = "any number; the first one defines the classes"
    add(
        "--split", type=_split, action="append", required=True, metavar="NAME=PATH", help=split_help
    )
    add("--root", **path, default="", metavar="DIR", help="the folder of the paths in a list")
    formats = f"of the sources: {', '.join(KINDS)}, or one of your own"
    add("--format", default="auto", metavar="NAME", help=formats)
    plugins_help = "modules that register formats of your own, by commas; they are imported"
    add("--plugins", default="", metavar="MODULES", help=plugins_help)
    add("--label-names", **path, metavar="FILE", help="class names, one a line in label order")
    limit = {"type": _fraction, "default": MAX_BAD_FRACTION, "metavar": "X", "help": "%(default)s"}
    add("--max-bad-fraction", **limit)
    add("--processes", type=positive_int, metavar="N", help="default: the number of cores")
    add("--beam", action="store_true", help="run as an Apache Beam pipeline")
    _add_options(parser)
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `PrepareOptions`; None stands for a flag that was not given."""
    add = parser.add_argument
    add("--to", choices=TARGETS, help="records")
    add("--store", choices=STORES, help="the content of records (mp4); jpeg where cores are few")
    add("--no-reencode", dest="reencode", **_STORE_FALSE, help="records of the unchanged files")
    add("--short-side", type=int, metavar="PIXELS", help="even, never upscaled, 0 keeps it (256)")
    add("--fps", type=float, metavar="N", help="0 keeps the video's own times; images: 30 (0)")
    add("--gop", type=int, metavar="N", help="frames from key frame to key frame (16)")
    add("--bframes", type=int, metavar="N", help="in a row at most (0)")
    add("--crf", type=float, metavar="N", help="lower is better and bigger (23)")
    add("--preset", choices=PRESETS, metavar="NAME", help="of x264 (medium)")
    add("--no-fastdecode", dest="fastdecode", **_STORE_FALSE, help="smaller but slower to decode")
    add("--jpeg-quality", type=int, metavar="N", help="1 to 100 (85)")
    add("--videos-per-shard", type=int, metavar="N", help="at most (256)")


# Unlike "store_false", this leaves None if the flag is not given.
_STORE_FALSE: dict[str, Any] = {"action": "store_const", "const": False}


def _split(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not path or not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name == "all":
        raise argparse.ArgumentTypeError(
            f"expected NAME=PATH, a NAME of letters, digits and _ such as train, but {text!r} came"
        )
    return name, os.path.expanduser(path)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1 but {text!r} came")
    return value


if __name__ == "__main__":
    sys.exit(run_script(run))
