"""Finds the videos that cannot be read: `python scripts/check_videos.py --help`.

    python scripts/check_videos.py train.txt test.txt
    python scripts/check_videos.py videos/train --output bad.csv

PATH is what config.data.train takes: an annotation file, or a folder with a sub-folder for each
class. Of every video the first, the middle and the last frame are decoded. The exit status is 0
when all can be read, 1 when some cannot, which the output file names with the reason, and 2 for a
wrong input.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from vswin_jax.data.example import Source

from vswin_jax.data.pipeline.bad_video_table import HEADER, csv_bytes
from vswin_jax.data.pipeline.bad_videos import why_unreadable
from vswin_jax.data.sources.sources import KINDS, open_source
from vswin_jax.errors import InputError
from vswin_jax.runtime.atomic_write import whole_file
from vswin_jax.runtime.progress import Progress
from vswin_jax.runtime.script_parser import script_parser
from vswin_jax.runtime.worker_pool import in_processes


def run(arguments: Sequence[str]) -> int:
    """The command line; writes the list of bad videos and returns the exit status."""
    asked = _parser().parse_args(arguments)
    try:
        sources = [
            open_source(
                path,
                root=asked.root,
                kind=asked.format,
                must_exist=False,
                multi_label=asked.multi_label,
            )
            for path in asked.paths
        ]
        _check_output(asked.output)
        bad, total = check(sources, asked.processes)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _write_whole(asked.output, [HEADER, *((name, reason, "", "") for name, reason in bad)])
    print(f"{len(bad)} of {total} videos cannot be read: see {asked.output}")
    return 1 if bad else 0


def check(sources: Sequence[Source], processes: int) -> tuple[list[tuple[str, str]], int]:
    """(name, reason) of every video that cannot be read, by name, and how many videos there are.

    Raises:
        InputError: a process died; this names the videos that it may have been reading.
    """
    progress = Progress(sum(map(len, sources)), lambda line: print(line, file=sys.stderr))
    examples = (source[index] for source in sources for index in range(len(source)))
    bad = set()
    checked = in_processes(why_unreadable, examples, processes, lambda example: example.name)
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


def _write_whole(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with whole_file(path) as partial:
        partial.write_bytes(csv_bytes(rows))


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(
        __doc__,
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", help="annotation file or folder")
    parser.add_argument("--root", default="", metavar="DIR", help="where a list's paths begin")
    parser.add_argument("--format", choices=KINDS, default="auto", help="of the annotations")
    parser.add_argument("--multi-label", action="store_true", help="the videos have sets of labels")
    parser.add_argument(
        "--output", type=Path, default=Path("bad_videos.csv"), metavar="CSV", help="%(default)s"
    )
    parser.add_argument(
        "--processes", type=_count, default=os.cpu_count() or 1, metavar="N", help="%(default)s"
    )
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"expected 1 or more but {text!r} came")
    return int(text)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
