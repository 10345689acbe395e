"""Prepares videos for training: `python scripts/prepare_dataset.py --help`.

    python scripts/prepare_dataset.py --out OUT --split train=train.txt --split val=val.txt
    python -m vswin_jax.main --config.data.train=OUT:train --config.data.eval=OUT:val ...

PATH is what config.data.train takes: an annotation file, a folder of classes, a published list, or
a split of a TFDS data set. Videos are encoded again, small and quick to decode, without sound. OUT
becomes a directory of record shards that TFDS opens (--to records), or has the videos in folders
and a list of each split, OUT/train.csv (--to videos). With them come manifest.csv, and
bad_videos.csv, which names those that were left out with the reason.

A run that was killed goes on with the same command. When more than --max-bad-fraction of the videos
are bad, OUT is not finished: look at bad_videos.csv, repair them and give the same command, which
tries those alone again; or raise the fraction. The exit status is then 1; it is 0 when OUT is
finished, and 2 for a wrong input.

With --beam the same work is an Apache Beam pipeline, whose options follow a `--`; OUT and the
videos must then be on a file system that all workers see under the same paths:

    python scripts/prepare_dataset.py --beam --out OUT --split train=train.txt -- --runner=Flink...
"""

import argparse
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vswin_jax.data.example import Source

from vswin_jax.data.sources.labels import read_label_names
from vswin_jax.data.sources.sources import KINDS, open_source
from vswin_jax.errors import InputError
from vswin_jax.prepare.job import Outcome, prepare
from vswin_jax.prepare.options import PRESETS, STORES, TARGETS, settings_of
from vswin_jax.prepare.shard_plan import make_plan
from vswin_jax.runtime.script_parser import script_parser

MAX_BAD_FRACTION = 0.05
_NOT_SETTINGS = (
    *("out", "split", "root", "format", "label_names", "processes", "max_bad_fraction", "beam"),
)


def run(arguments: Sequence[str]) -> int:
    """The command line; prepares, and returns the exit status."""
    ours, beam_options = _at_dashes(arguments)
    asked = _parser().parse_args(ours)
    try:
        outcome = _prepare(asked, beam_options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: the same command goes on from there", file=sys.stderr)
        return 130
    print(_said(outcome, asked))
    return 0 if outcome.complete else 1


def _prepare(asked: argparse.Namespace, beam_options: list[str] | None) -> Outcome:
    given = {k: v for k, v in vars(asked).items() if k not in _NOT_SETTINGS and v is not None}
    settings = settings_of(given)
    _check_where(asked, beam_options)
    sources = _sources(asked)
    return prepare(
        make_plan(settings, sources),
        sources,
        asked.out,
        processes=asked.processes or os.cpu_count() or 1,
        max_bad_fraction=asked.max_bad_fraction,
        say=lambda line: print(line, file=sys.stderr, flush=True),
        beam_options=(beam_options or []) if asked.beam else None,
    )


def _sources(asked: argparse.Namespace) -> dict[str, Source]:
    """The source of each split; the first one says what classes there are."""
    names = read_label_names(asked.label_names) if asked.label_names else None
    sources: dict[str, Source] = {}
    for split, path in asked.split:
        if split in sources:
            raise InputError(f"Expected every split once but {split!r} came twice: rename one.")
        sources[split] = open_source(
            path, root=asked.root, kind=asked.format, label_names=names, must_exist=False
        )
        names = sources[split].label_names
    return sources


def _check_where(asked: argparse.Namespace, beam_options: list[str] | None) -> None:
    if not asked.beam and beam_options is not None:
        raise InputError("What follows -- are options of Beam: add --beam, or leave them out.")
    if asked.beam and asked.processes:
        raise InputError("--processes has no effect with --beam: give the runner's own option.")
    if asked.beam and importlib.util.find_spec("apache_beam") is None:
        raise InputError(
            '--beam needs Apache Beam: pip install "vswin_jax[beam]", or leave it out.'
        )


def _said(outcome: Outcome, asked: argparse.Namespace) -> str:
    if outcome.was_complete:
        return f"{asked.out} is finished already"
    bad = f"{outcome.bad} of {outcome.examples} videos are bad: see {asked.out}/bad_videos.csv"
    if outcome.complete:
        good = f"{outcome.examples - outcome.bad} videos are in {asked.out}"
        return f"{good}; {bad}" if outcome.bad else good
    return (
        f"{bad}; that is more than --max-bad-fraction ({asked.max_bad_fraction:g}) allows, or all "
        "of a split: repair them and give the same command again, which tries them again, or raise "
        "the fraction"
    )


def _at_dashes(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    arguments = list(arguments)
    if "--" not in arguments:
        return arguments, None
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(
        __doc__,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="OUT", help="the directory to write")
    add(
        "--split",
        type=_split,
        action="append",
        required=True,
        metavar="NAME=PATH",
        help="any number; the first one defines the classes",
    )
    add("--root", default="", metavar="DIR", help="where a list's paths begin")
    add("--format", choices=KINDS, default="auto", help="of the sources")
    add("--label-names", metavar="FILE", help="class names, one a line in the order of the labels")
    add(
        "--max-bad-fraction",
        type=_fraction,
        default=MAX_BAD_FRACTION,
        metavar="X",
        help="%(default)s",
    )
    add("--processes", type=_count, metavar="N", help="as many as there are cores")
    add("--beam", action="store_true", help="run as an Apache Beam pipeline")
    _add_settings(parser)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """The flags of `Settings`; those that are not given are None, so that it sees which were."""
    add = parser.add_argument
    add("--to", choices=TARGETS, help="records")
    add("--store", choices=STORES, help="what records hold (mp4); jpeg where cores are few")
    add("--no-reencode", dest="reencode", **_OFF, help="records of the files as they are")
    add("--short-side", type=int, metavar="PIXELS", help="even, never upscaled, 0 keeps it (256)")
    add("--fps", type=float, metavar="N", help="0 keeps the video's own times; images: 30 (0)")
    add("--gop", type=int, metavar="N", help="frames from key frame to key frame (16)")
    add("--bframes", type=int, metavar="N", help="in a row at most (0)")
    add("--crf", type=float, metavar="N", help="lower is better and bigger (23)")
    add("--preset", choices=PRESETS, metavar="NAME", help="of x264 (medium)")
    add("--no-fastdecode", dest="fastdecode", **_OFF, help="smaller but slower to decode")
    add("--jpeg-quality", type=int, metavar="N", help="1 to 100 (85)")
    add("--videos-per-shard", type=int, metavar="N", help="at most (256)")


_OFF: dict[str, Any] = {"action": "store_const", "const": False}


def _split(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not path or not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name == "all":
        raise argparse.ArgumentTypeError(
            f"expected NAME=PATH, a NAME of letters, digits and _ such as train, but {text!r} came"
        )
    return name, path


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"expected 1 or more but {text!r} came")
    return int(text)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1 but {text!r} came")
    return value


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
