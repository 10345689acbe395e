"""Finds the videos that cannot be read: `python scripts/check_videos.py --help`.

    python scripts/check_videos.py train.txt test.txt
    python scripts/check_videos.py videos/train --output bad.csv
    python scripts/check_videos.py --config experiments/ssv2.py --config.data.train=train.txt ...

PATH is as in config.data.train: an annotation file, or a folder with a sub-folder for each class.
Every frame of every video is decoded, by the code that decodes the clips of training, in processes
with limits of time and memory: a video that hangs or crashes its decoder is a bad one too. With
--config the lists are those of the config, and only the frames that its clips can contain are
decoded, so that the output has the videos that this training would replace, and no others. --quick
decodes three frames of each video and misses damage between them.

The output lists each bad video once, with the path as the annotation file has it and the reason.
Rows are appended as they are found and sorted at the end. After an interruption the same command
continues. The exit status is 0 if all videos can be read, 1 if some cannot, 2 for a wrong input and
130 after Ctrl-C.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from vswin_jax.config.plugins import import_plugins
from vswin_jax.data.decoding.decode import three_frames
from vswin_jax.data.example import Example, Source
from vswin_jax.data.pipeline.bad_videos import nameless
from vswin_jax.data.pipeline.clip_processes import MAX_PROCESSES, shared_processes
from vswin_jax.data.pipeline.video_check import (
    FrameChoice,
    eval_frames,
    every_frame,
    train_frames,
    unreadable_reason,
)
from vswin_jax.data.sources.sources import KINDS, open_source
from vswin_jax.errors import InputError, rename_arguments, unknown_name
from vswin_jax.prepare.check_report import CheckReport, Key, video_state
from vswin_jax.runtime.cpu_count import usable_cpus
from vswin_jax.runtime.output_path import output_file
from vswin_jax.runtime.printable import printable
from vswin_jax.runtime.progress import Progress
from vswin_jax.runtime.script_parser import positive_int, print_error, script_parser
from vswin_jax.runtime.standard_streams import print_message, run_script
from vswin_jax.runtime.worker_pool import map_in_threads

# For errors of `open_source`.
_FLAG_OF_ARGUMENT = {
    "the data format": "--format",
    "the root": "--root",
    "the root of its paths": "--root, the folder of its paths",
    "config.data.multi_label": "--multi-label",
    "multi_label": "--multi-label",
}
_FLAGS = (
    *("--root", "--format", "--plugins", "--multi-label", "--config", "--quick", "--output"),
    "--processes",
)


class CheckedList(NamedTuple):
    """The videos of one list, and the choice of their frames to decode, with a description."""

    path: str
    source: Source
    choose: FrameChoice
    frames: str


class Checked(NamedTuple):
    """The result for one video; `reason` is "" if it is good."""

    key: Key
    state: object
    reason: str


def run(arguments: Sequence[str]) -> int:
    """Run the command line: write the list of bad videos and return the exit status."""
    parser = _parser()
    args, overrides = parser.parse_known_args(arguments)
    if not (args.paths or args.config):
        parser.error("expected a PATH or --config")
    try:
        output = output_file(args.output, "--output", parent_must_exist=True)
        lists = _open_lists(args, overrides)
        settings = [args.root, args.config, *overrides]
        settings += [f"{part.path}: {part.frames}" for part in lists]
        with CheckReport(output, settings) as report:
            bad, total = check(lists, args.processes, report)
            report.finish(bad)
    except InputError as error:
        return print_error(error)
    except KeyboardInterrupt:
        print_message("interrupted: the same command continues the check")
        return 130
    print(f"{len(bad)} of {total} videos cannot be read: see {printable(output)}")
    return 1 if bad else 0


def check(
    lists: Sequence[CheckedList], processes: int, report: CheckReport
) -> tuple[list[tuple[str, str]], int]:
    """Return the sorted (name, reason) of all bad videos, and the number of all videos."""
    total = sum(len(part.source) for part in lists)
    progress = Progress(total, print_message)
    bad, earlier = set(), 0
    for result, is_earlier in _results(lists, processes, report):
        if result.reason:
            bad.add((result.key[-1], result.reason))
        if not is_earlier:
            report.add(*result)
        earlier += is_earlier
        progress.add(note=f"{len(bad)} bad")
    if earlier:
        print_message(f"{earlier} of {total} videos were checked before the interruption")
    return sorted(bad), total


def _results(
    lists: Sequence[CheckedList], processes: int, report: CheckReport
) -> Iterator[tuple[Checked, bool]]:
    """Yield the results of `_check_video` for all videos, in order of completion."""
    videos = ((part, index) for part in lists for index in range(len(part.source)))
    # Other systems cannot pass a socket to a process: threads of this process decode there.
    pool = shared_processes(processes) if os.name == "posix" else None
    decode = pool.unreadable_reason if pool else unreadable_reason
    check_one = functools.partial(_check_video, decode, report)
    try:
        for _, result in map_in_threads(check_one, videos, processes):
            yield result
    except BaseException:
        # The program would wait for the videos that are being decoded.
        if pool:
            pool.close()
            shared_processes.cache_clear()
        raise


def _check_video(
    decode: Callable[[Example, FrameChoice], str],
    report: CheckReport,
    video: tuple[CheckedList, int],
) -> tuple[Checked, bool]:
    """Check one video; return the result, and True if it is that of an interrupted check."""
    (path, source, choose, _), index = video
    try:
        example = source[index]
    except InputError as error:
        return Checked((path, nameless(index)), None, str(error)), False
    key, state = (path, example.name), video_state(example)
    reason = report.earlier_reason(key, state)
    if reason is not None:
        return Checked(key, state, reason), True
    return Checked(key, state, decode(example, choose)), False


def _open_lists(args: argparse.Namespace, overrides: Sequence[str]) -> list[CheckedList]:
    import_plugins(args.plugins)
    if args.config:
        return list(_lists_of_config(args, overrides))
    if overrides:
        raise unknown_name("argument", overrides[0], _FLAGS)
    choose, frames = (three_frames, "three") if args.quick else (every_frame, "all")
    options = {"root": args.root, "kind": args.format, "multi_label": args.multi_label}
    with rename_arguments(_FLAG_OF_ARGUMENT):
        return [
            CheckedList(path, open_source(path, must_exist=False, **options), choose, frames)
            for path in args.paths
        ]


def _lists_of_config(args: argparse.Namespace, overrides: Sequence[str]) -> Iterator[CheckedList]:
    """Yield the training and the evaluation list of a config, as far as it names them."""
    # JAX takes seconds to import, and is needed only here.
    from vswin_jax import factory
    from vswin_jax.config import argument_names, flags, rules

    config = flags.override(flags.load(args.config), overrides)
    rules.check(config)
    spec, data = factory.clip_spec(config), config.data
    if args.paths or args.quick or data.kind != "files" or not (data.train or data.eval):
        raise InputError(
            "Expected --config with lists in config.data.train and config.data.eval, without PATH "
            "and --quick: leave those out, or leave --config out."
        )
    names = None
    for path, choose in ((data.train, train_frames), (data.eval, eval_frames)):
        if path:
            with rename_arguments(argument_names.SOURCE):
                source = open_source(
                    path,
                    root=data.root,
                    kind=data.format,
                    label_names=names,
                    num_classes=config.model.num_classes,
                    must_exist=False,
                    multi_label=data.multi_label,
                )
            names = source.label_names
            frames = f"{choose.__name__} of {spec}"
            yield CheckedList(path, source, functools.partial(choose, spec), frames)


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(
        __doc__, usage="%(prog)s PATH [PATH ...] [options]\n       %(prog)s --config FILE [options]"
    )
    add = parser.add_argument
    path = {"type": os.path.expanduser}
    add("paths", **path, metavar="PATH", nargs="*", help="annotation file or folder")
    add("--root", **path, default="", metavar="DIR", help="the folder of the paths in a list")
    formats = f"of the annotations: {', '.join(KINDS)}, or one of your own"
    add("--format", default="auto", metavar="NAME", help=formats)
    plugins_help = "modules that register formats of your own, by commas; they are imported"
    add("--plugins", default="", metavar="MODULES", help=plugins_help)
    add("--multi-label", action="store_true", help="the videos have sets of labels")
    add("--config", default="", metavar="FILE", help="an experiment; --config.KEY=VALUE changes it")
    add("--quick", action="store_true", help="decode three frames of each video")
    add("--output", default="bad_videos.csv", metavar="CSV", help="%(default)s")
    cores = min(usable_cpus(), MAX_PROCESSES)
    add("--processes", type=positive_int, default=cores, metavar="N", help="%(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(run_script(run))
