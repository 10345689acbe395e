"""Finds the videos that cannot be read: `python scripts/check_videos.py --help`.

    python scripts/check_videos.py train.txt test.txt
    python scripts/check_videos.py videos/train --output bad.csv

PATH is what config.data.train takes: an annotation file, or a folder with a sub-folder for each
class. Of every video the first, the middle and the last frame are decoded. The exit status is 0
when all can be read, 1 when some cannot, which the output file names with the reason, and 2 for a
wrong input.
"""

import argparse
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from vswin_jax.data.bad_video_table import HEADER, csv_bytes
from vswin_jax.data.bad_videos import why_unreadable
from vswin_jax.data.sources import KINDS, Example, Source, open_source
from vswin_jax.errors import InputError

PROGRESS_SECONDS = 5.0
# Videos a process is ahead with: enough to keep it busy, few enough to keep the memory flat.
_AHEAD = 16


def run(arguments: Sequence[str]) -> int:
    """The command line; writes the list of bad videos and returns the exit status."""
    asked = _parser().parse_args(arguments)
    try:
        sources = [
            open_source(path, root=asked.root, kind=asked.format, must_exist=False)
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
    progress = _Progress(sum(map(len, sources)))
    examples = (source[index] for source in sources for index in range(len(source)))
    bad = set()
    for name, reason in _reasons(examples, processes):
        progress.add(bool(reason))
        if reason:
            bad.add((name, reason))
    return sorted(bad), progress.total


def _reasons(examples: Iterator[Example], processes: int) -> Iterator[tuple[str, str]]:
    """(name, what is wrong with it or "") of every video, in the order in which they are done."""
    running: dict[Future[str], str] = {}
    # A forked child would inherit locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            while True:
                for example in itertools.islice(examples, processes * _AHEAD - len(running)):
                    running[pool.submit(why_unreadable, example)] = example.name
                if not running:
                    return
                for future in wait(running, return_when="FIRST_COMPLETED").done:
                    yield running[future], future.result()
                    del running[future]
    except BrokenProcessPool as error:
        # They are read in the order in which they were handed out.
        oldest = itertools.islice((n for f, n in running.items() if _has_failed(f)), processes)
        raise InputError(
            f"A process died while it read one of {', '.join(map(repr, oldest))}: take the one "
            f"that kills it off the list, or need less memory with fewer --processes."
        ) from error


def _has_failed(future: Future[str]) -> bool:
    return not future.done() or future.exception() is not None


class _Progress:
    """Says now and then how many videos are done, how fast, and how long the rest will take."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._done = self._bad = 0
        self._start = self._said = time.monotonic()

    def add(self, is_bad: bool) -> None:
        """Counts one more video as done."""
        self._done += 1
        self._bad += is_bad
        now = time.monotonic()
        if now - self._said < PROGRESS_SECONDS:
            return
        self._said = now
        rate = self._done / (now - self._start)
        left = (self.total - self._done) / rate
        print(
            f"{self._done} of {self.total} videos, {self._bad} bad, {rate:.1f} videos/s, "
            f"{left:.0f} s left",
            file=sys.stderr,
        )


def _check_output(path: Path) -> None:
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise InputError(
            f"Expected --output to be a file in a folder that exists but {str(path)!r} came: "
            f"correct it."
        )


def _write_whole(path: Path, rows: Iterable[Sequence[str]]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(csv_bytes(rows))
    os.replace(partial, path)


def _parser() -> argparse.ArgumentParser:
    head, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=head.partition(":")[0] + ".",
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", help="annotation file or folder")
    parser.add_argument("--root", default="", metavar="DIR", help="where a list's paths begin")
    parser.add_argument("--format", choices=KINDS, default="auto", help="of the annotations")
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
