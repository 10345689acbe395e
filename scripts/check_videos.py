"""Finds the videos that cannot be read: `python scripts/check_videos.py --help`.

    python scripts/check_videos.py train.txt test.txt
    python scripts/check_videos.py videos/train --output bad.csv

PATH is as in config.data.train: an annotation file, or a folder with a sub-folder for each class.
The first, the middle and the last frame of every video are decoded. The exit status is 0 if all
videos can be read, 1 if some cannot, which the output file lists with the reason, and 2 for a wrong
input.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vswin_jax.data.example import Source
from vswin_jax.data.pipeline.bad_video_table import HEADER, csv_bytes
from vswin_jax.data.pipeline.bad_videos import unreadable_reason
from vswin_jax.data.sources.sources import KINDS, open_source
from vswin_jax.errors import InputError
from vswin_jax.runtime.atomic_write import atomic_write
from vswin_jax.runtime.progress import Progress
from vswin_jax.runtime.script_parser import positive_int, print_error, script_parser
from vswin_jax.runtime.worker_pool import map_in_processes


def run(arguments: Sequence[str]) -> int:
    """Run the command line: write the list of bad videos and return the exit status."""
    args = _parser().parse_args(arguments)
    try:
        sources = [
            open_source(
                path,
                root=args.root,
                kind=args.format,
                must_exist=False,
                multi_label=args.multi_label,
            )
            for path in args.paths
        ]
        _check_output(args.output)
        bad, total = check(sources, args.processes)
    except InputError as error:
        return print_error(error)
    rows = [HEADER, *((name, reason, "", "") for name, reason in bad)]
    with atomic_write(args.output) as partial:
        partial.write_bytes(csv_bytes(rows))
    print(f"{len(bad)} of {total} videos cannot be read: see {args.output}")
    return 1 if bad else 0


def check(sources: Sequence[Source], processes: int) -> tuple[list[tuple[str, str]], int]:
    """Return the sorted (name, reason) of all bad videos, and the number of all videos.

    Raises:
      InputError: a process died; the message names the videos that it may have been reading.
    """
    progress = Progress(sum(map(len, sources)), lambda line: print(line, file=sys.stderr))
    examples = (source[index] for source in sources for index in range(len(source)))
    bad = set()
    checked = map_in_processes(unreadable_reason, examples, processes, lambda example: example.name)
    for example, reason in checked:
        if reason:
            bad.add((example.name, reason))
        progress.add(note=f"{len(bad)} bad")
    return sorted(bad), progress.total


def _check_output(path: Path) -> None:
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise InputError(
            f"Expected --output to be a file in a folder that exists but {str(path)!r} came: "
            f"correct it."
        )


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("paths", metavar="PATH", nargs="+", help="annotation file or folder")
    add("--root", default="", metavar="DIR", help="the folder of the paths in a list")
    add("--format", choices=KINDS, default="auto", help="of the annotations")
    add("--multi-label", action="store_true", help="the videos have sets of labels")
    add("--output", type=Path, default=Path("bad_videos.csv"), metavar="CSV", help="%(default)s")
    cores = os.cpu_count() or 1
    add("--processes", type=positive_int, default=cores, metavar="N", help="%(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
